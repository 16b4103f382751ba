"""LoRA on a CPU: `martlet train` beside TRL's SFTTrainer, the same recipe, in one run.

    python benchmarks/train.py             # a few minutes a contender on two cores
    python benchmarks/train.py --steps 12  # more of the same

The model has the shape of Qwen2 0.5B and random weights in bf16; the rows are dialogues and their
summaries (DialogSum) from the material beside the project, and the tokenizer and chat template are
Qwen2's. Rank 16 on all linear layers, 8 rows a step, loss on the summaries alone. TRL also learns
the line's end that the template writes behind a reply, so its losses differ by that token. Each
contender runs in a process of its own. Tokens are those of the rows, padding left out. The first
step, which warms up, is not timed. The table goes to `benchmarks/results/train.md`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from common import RESULTS
from martlet.bench.machine import machine
from martlet.bench.random_model import make_model

SHARED = Path(__file__).resolve().parents[2] / "shared"
CONTENDERS = ("trl", "martlet")
BATCH_SIZE = 8
RANK = 16
LEARNING_RATE = 2e-4


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one process measured."""

    tokens_per_second: float
    peak_bytes: int
    losses: tuple[float, ...]
    """Of each step."""


def main() -> None:
    """Measure one contender, or all of them in processes of their own."""
    arguments = _parse_arguments()
    if not SHARED.is_dir():
        sys.exit(f"no material in {SHARED}: nothing to measure on")
    if arguments.contender:
        measure = {"trl": measure_trl, "martlet": measure_martlet}[arguments.contender]
        figure = measure(arguments.model, arguments.rows, arguments.steps)
        print(json.dumps(asdict(figure)))
        return
    with tempfile.TemporaryDirectory() as place:
        model, rows = make_base(Path(place)), make_rows(Path(place), arguments.steps)
        figures = {
            contender: _run_alone(contender, model, rows, arguments.steps)
            for contender in CONTENDERS
        }
    table = render(figures, arguments.steps)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train.md").write_text(table, encoding="utf-8")
    print(table)


def make_base(place: Path) -> Path:
    """The random model with Qwen2's tokenizer and template."""
    folder = make_model(place / "model")
    for path in (SHARED / "tokenizers" / "qwen2").iterdir():
        if path.name not in ("config.json", "generation_config.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    template = (SHARED / "templates" / "qwen2-1.5b-instruct.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def make_rows(place: Path, num_steps: int) -> Path:
    """As many rows as the steps take."""
    lines = (SHARED / "data" / "dialogsum" / "train.jsonl").read_text("utf-8").splitlines()
    rows = []
    for line in lines[: num_steps * BATCH_SIZE]:
        columns = json.loads(line)
        question = f"Summarize this dialogue.\n\n{columns['dialogue']}"
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": columns["summary"]},
        ]
        rows.append(json.dumps({"messages": messages}, ensure_ascii=False))
    file = place / "rows.jsonl"
    file.write_text("\n".join(rows), "utf-8")
    return file


class Clock(transformers.TrainerCallback):
    """Times the steps after the first, and keeps the losses."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0
        self.losses: list[float] = []

    def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
        self.ended = time.perf_counter()
        self.started = self.started or self.ended

    def on_log(
        self, args: object, state: object, control: object, logs: dict[str, float], **_: object
    ) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def figure(self, num_tokens: int) -> Figure:
        """What was measured, given the tokens of the steps that were timed."""
        return Figure(
            tokens_per_second=num_tokens / (self.ended - self.started),
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            losses=tuple(self.losses),
        )


def measure_trl(model: Path, rows: Path, num_steps: int) -> Figure:
    """The trainer as TRL's documentation shows it, with the recipe's settings."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    conversations = [json.loads(line)["messages"] for line in rows.read_text("utf-8").splitlines()]
    dataset = Dataset.from_list(
        [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations]
    )
    clock, batches = Clock(), []
    with tempfile.TemporaryDirectory() as place:
        trainer = SFTTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16),
            args=SFTConfig(
                output_dir=place,
                per_device_train_batch_size=BATCH_SIZE,
                max_steps=num_steps,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="cosine",
                seed=0,
                bf16=True,
                use_cpu=True,
                gradient_checkpointing=False,
                max_length=None,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=dataset,
            processing_class=transformers.AutoTokenizer.from_pretrained(model),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
            ),
            callbacks=[clock],
        )
        step = trainer.training_step

        def counted(module: object, inputs: dict[str, torch.Tensor], count: object) -> object:
            batches.append(int(inputs["attention_mask"].sum()))
            return step(module, inputs, count)

        trainer.training_step = counted
        trainer.train()
    return clock.figure(sum(batches[1:]))


def measure_martlet(model: Path, rows: Path, num_steps: int) -> Figure:
    """The trainer that `martlet train` runs."""
    from martlet.train.base import load_for_training
    from martlet.train.config import resolve_config
    from martlet.train.job import make_run, open_job
    from martlet.train.progress import Reporter

    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        given = {"data": [str(rows)], "model": str(model), "out": Path(place) / "run"}
        recipe = {"rank": RANK, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
        config = resolve_config(
            {**given, **recipe, "max_steps": num_steps, "warmup": 0, "precision": "bf16"}
        )
        job = open_job(config)
        trained = load_for_training(job.base, config, device=job.device, dtype=job.dtype)
        reporter = Reporter(lambda _: None, metrics=job.folder.metrics, should_stop=lambda: False)
        trainer = make_run(job, trained, reporter)
        trainer.add_callback(clock)
        first: list[int] = []
        trainer.add_callback(_after_first_step(lambda: first.append(reporter.num_tokens)))
        trainer.train()
    return clock.figure(reporter.num_tokens - first[0])


def _after_first_step(call: object) -> transformers.TrainerCallback:
    class Once(transformers.TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            if state.global_step == 1:
                call()

    return Once()


def render(figures: dict[str, Figure], num_steps: int) -> str:
    """The table of a run."""
    trl, ours = figures["trl"], figures["martlet"]
    lines = [
        "# LoRA on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}. {num_steps} steps. Made by "
        "`python benchmarks/train.py`, whose first lines say what is measured.",
        "",
        "| trainer | tokens/s | peak memory, GB | loss, first step | loss, last step |",
        "|---|---:|---:|---:|---:|",
    ]
    names = {"trl": "TRL's SFTTrainer", "martlet": "martlet train"}
    lines += [
        f"| {names[name]} | {each.tokens_per_second:.0f} | {each.peak_bytes / 1e9:.2f} | "
        f"{each.losses[0]:.4f} | {each.losses[-1]:.4f} |"
        for name, each in figures.items()
    ]
    speed = ours.tokens_per_second / trl.tokens_per_second
    memory = ours.peak_bytes / trl.peak_bytes
    lines += ["", f"Martlet: {speed:.2f} times the tokens/s, {memory:.2f} times the memory.", ""]
    return "\n".join(lines)


def _run_alone(contender: str, model: Path, rows: Path, num_steps: int) -> Figure:
    command = [sys.executable, __file__, "--contender", contender, "--steps", str(num_steps)]
    command += ["--model", str(model), "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{contender} failed:\n{done.stderr[-3000:]}")
    values = json.loads(done.stdout.splitlines()[-1])
    return Figure(**{**values, "losses": tuple(values["losses"])})


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure training beside TRL's.")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
