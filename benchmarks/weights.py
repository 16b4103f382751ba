"""Weights as stored, in eight and in four bits: speed on a CPU, and what the rounding costs.

    python benchmarks/weights.py            # about two minutes on two cores
    python benchmarks/weights.py --rounds 3 # more rounds, for the spread

Speed is measured on the model of `offline.py` (Qwen2 0.5B, random weights), in processes of their
own that take turns:

    alone   1 prompt of 128 tokens, 128 new ones, greedy
    batch   16 prompts of 128, 128 new ones each, greedy

Quality is measured on the embedded model, where weights have something to say: on unseen puzzles
with their replies, each position against fp32. The table goes to `benchmarks/results/`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import torch

from martlet.models.weights import Weights
from offline import RESULTS, Figure, machine, make_model, martlet_contender, prompts

WORK = {"alone": prompts(1, 128), "batch": prompts(16, 128)}
NUM_PUZZLES = 40


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How far a model's answers are from those in fp32."""

    num_tokens: int
    mean_kl: float
    """Of the next token's distribution, in nats."""
    top1_agreement: float


def main() -> None:
    arguments = _parse_arguments()
    if arguments.work:
        contender = martlet_contender(WORK[arguments.work], weights=arguments.weights)
        print(json.dumps(asdict(contender(Path(arguments.model)))))
        return
    figures: dict[tuple[Weights, str], list[Figure]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "qwen2-0.5b-random")
        for number in range(arguments.rounds):
            for weights in get_args(Weights):
                for work in WORK:
                    figure = measure(weights, work, folder)
                    figures.setdefault((weights, work), []).append(figure)
                    speed = f"{figure.tokens_per_second:7.1f} tokens/s"
                    print(f"round {number + 1}  {weights:8} {work:6} {speed}", file=sys.stderr)
    table = render(figures, {weights: quality(weights) for weights in get_args(Weights)})
    (RESULTS / "weights.md").write_text(table, encoding="utf-8")
    print(table)


def measure(weights: Weights, work: str, folder: Path) -> Figure:
    """Runs one piece of work in a process of its own."""
    command = [sys.executable, __file__, "--work", work, "--weights", weights]
    done = subprocess.run(
        [*command, "--model", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Figure(**json.loads(done.stdout.splitlines()[-1]))


def quality(weights: Weights) -> Quality:
    """Compares the embedded model in bf16, its weights held in a way, with itself in fp32."""
    rows = puzzle_rows()
    expected = logits_of(rows, torch.float32, "stored")
    got = logits_of(rows, torch.bfloat16, weights)
    log_p, log_q = (torch.log_softmax(each.double(), dim=-1) for each in (expected, got))
    return Quality(
        num_tokens=len(log_p),
        mean_kl=(log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().item(),
        top1_agreement=(log_p.argmax(-1) == log_q.argmax(-1)).double().mean().item(),
    )


def puzzle_rows() -> list[tuple[int, ...]]:
    """Unseen puzzles, one question of each with its reply, as token ids."""
    from transformers import AutoTokenizer

    from martlet.batch.prompts import multiple_choice_prompt
    from martlet.demo import model_path
    from martlet.demo.puzzles import unseen_puzzles

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    rows = []
    for puzzle in unseen_puzzles(count=NUM_PUZZLES):
        question = puzzle.questions[0]
        prompt = multiple_choice_prompt(puzzle.problem, question.question, question.options)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        rows.append(tuple(tokenizer.encode(text + question.reply)))
    return rows


def logits_of(rows: list[tuple[int, ...]], dtype: torch.dtype, weights: Weights) -> torch.Tensor:
    """The logits of every position of all rows, one below the other, by the engine."""
    from martlet.demo import model_path
    from martlet.engine.config import EngineConfig
    from martlet.engine.engine import Engine
    from martlet.models.folder import open_folder
    from martlet.models.load import load_model

    model = load_model(
        open_folder(model_path()), dtype=dtype, device=torch.device("cpu"), weights=weights
    )
    longest = max(map(len, rows)) + 1
    engine = Engine(model, EngineConfig(num_blocks=-(-longest // 16), max_context_tokens=longest))
    return torch.cat([engine.logits(row) for row in rows])


def render(figures: dict[tuple[Weights, str], list[Figure]], by: dict[Weights, Quality]) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# Weights in eight and four bits on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}. Made by `python benchmarks/weights.py`, whose first lines say "
        "what is measured.",
        "",
        "| weights | alone, decoding, tokens/s | batch of 16, tokens/s | weights, GB | peak, GB | "
        "mean KL, nats | same first token |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for weights, cost in by.items():
        alone, batch = figures[weights, "alone"], figures[weights, "batch"]
        cells = (
            f"{statistics.median(f.decode_tokens_per_second for f in alone):.1f}",
            f"{statistics.median(f.tokens_per_second for f in batch):.1f}",
            f"{alone[0].weights_bytes / 1e9:.2f}",
            f"{max(f.peak_bytes for f in batch) / 1e9:.2f}",
            f"{cost.mean_kl:.5f}",
            f"{cost.top1_agreement:.2%}",
        )
        lines.append(f"| {weights} | {' | '.join(cells)} |")
    num_tokens = next(iter(by.values())).num_tokens
    lines += ["", f"KL and first tokens over {num_tokens:,} positions, against fp32."]
    return "\n".join(lines) + "\n"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", choices=list(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--weights", choices=get_args(Weights), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
