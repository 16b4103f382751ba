"""The engine on one GPU, beside what the card can do and what others do on it, in one run.

    python benchmarks/gpu.py                    # everything
    python benchmarks/gpu.py --only alone vote  # some of it
    python benchmarks/gpu.py --layers 4         # fewer layers, to see that it works

The model has the shape of Llama 3 8B and random weights in bf16. Each measurement runs in a process
of its own. The first one measures the card: what it reads a second, and what its matrix products
reach. The table goes to `benchmarks/results/gpu.md`.

    batch     1,024 prompts of 256 tokens, 256 new ones each
    alone     one prompt of 256, 256 new ones
    vote      128 problems of 1,024 tokens, 8 samples of 128 each; `apart` shares nothing
    adapters  as batch with 128 new tokens, neighbours by different ones of 16 adapters of rank 16
    fp8       as batch, with weights in E4M3
    fp8-kv    as batch, with keys and values in E4M3
    static    transformers, batches of 128 of the same prompts
    flowing   transformers' continuous batching
    vllm      `vllm bench throughput`, where it is installed
    lora      `martlet train` beside TRL (`trl-lora`); see `gpu_tuning.py`
    qlora     the same with the base in NF4 (`trl-qlora`)
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from adapters import make_adapters
from gpu_tuning import Recipe, Tuned, tune_with_martlet, tune_with_trl
from martlet.engine.config import EngineConfig, KVDtype
from martlet.engine.cuda.graphs import graph_ladder
from martlet.engine.cuda.warm_up import fit_pool
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from martlet.models.load import load_model
from martlet.models.weights import Weights

RESULTS = Path(__file__).parent / "results"
BLOCK_SIZE = 16
NUM_ADAPTERS = 16
STATIC_BATCH = 128
UTILIZATION = 0.92


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of a contender."""

    num_prompts: int
    prompt_length: int
    num_new: int
    samples: int = 1
    sharing: bool = True
    num_adapters: int = 0
    weights: Weights = "stored"
    kv_dtype: KVDtype = "model"

    @property
    def num_requests(self) -> int:
        return self.num_prompts * self.samples

    @property
    def total_new(self) -> int:
        return self.num_requests * self.num_new

    def prompts(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        shape = (self.num_prompts, self.prompt_length)
        return torch.randint(0, 128_000, shape, generator=generator).tolist()


BATCH = Work(num_prompts=1024, prompt_length=256, num_new=256)
BASE = Work(num_prompts=1024, prompt_length=256, num_new=128)
VOTE = Work(num_prompts=128, prompt_length=1024, num_new=128, samples=8)
WORKS = {
    "batch": BATCH,
    "alone": Work(num_prompts=1, prompt_length=256, num_new=256),
    "vote": VOTE,
    "apart": Work(num_prompts=128, prompt_length=1024, num_new=128, samples=8, sharing=False),
    "base": BASE,
    "adapters": Work(num_prompts=1024, prompt_length=256, num_new=128, num_adapters=NUM_ADAPTERS),
    "fp8": Work(num_prompts=1024, prompt_length=256, num_new=256, weights="fp8"),
    "fp8-kv": Work(num_prompts=1024, prompt_length=256, num_new=256, kv_dtype="fp8"),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one process measured."""

    tokens_per_second: float
    """New tokens over the whole time, prompts included; of tuning, the tokens of the rows."""
    decode_tokens_per_second: float = 0.0
    """From when every request had its first token; 0 where it was not measured."""
    peak_gib: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the card reached by itself, and the size of the model."""

    bytes_per_second: float
    flops_per_second: float
    weights_bytes: int
    kv_bytes_per_token: int

    def seconds(self, work: Work) -> float:
        """The least time for a batch: its prompts' products, then each step's reading or products,
        whichever takes longer. Two operations a weight and token; attention's own are left out."""
        flops_a_token = self.weights_bytes  # two bytes a weight in bf16, two operations
        prompts_s = work.num_prompts * work.prompt_length * flops_a_token / self.flops_per_second
        products_s = work.num_requests * flops_a_token / self.flops_per_second
        steps_s = 0.0
        for step in range(work.num_new):
            keys = work.num_requests * (work.prompt_length + step)
            read = self.weights_bytes + keys * self.kv_bytes_per_token
            steps_s += max(read / self.bytes_per_second, products_s)
        return prompts_s + steps_s


def main() -> None:
    arguments = _parse_arguments()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a CUDA device, and PyTorch sees none")
    if arguments.contender:
        measured = CONTENDERS[arguments.contender](Path(arguments.folder))
        print(json.dumps(asdict(measured)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / "model", arguments.layers)
        make_adapters(folder, NUM_ADAPTERS)
        card = Card(**measure("card", folder))
        figures = {}
        for name in arguments.only:
            if name == "vllm" and shutil.which("vllm") is None:
                print("vllm is not installed here and is left out", file=sys.stderr)
                continue
            figures[name] = Figure(**measure(name, folder))
            print(f"{name:9} {figures[name].tokens_per_second:10.1f} tokens/s", file=sys.stderr)
    RESULTS.mkdir(exist_ok=True)
    table = render(card, figures, arguments.layers)
    (RESULTS / "gpu.md").write_text(table, encoding="utf-8")
    print(table)


def make_model(folder: Path, num_layers: int) -> None:
    """Saves a random model of the shape of Llama 3 8B in bf16."""
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=num_layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def measure(contender: str, folder: Path) -> dict[str, float]:
    """Runs one contender in a process of its own."""
    command = [sys.executable, __file__, "--contender", contender, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_card(folder: Path) -> Card:
    """Reads 4 GiB and multiplies large matrices, at best of several times."""
    block = torch.ones(2**31, dtype=torch.bfloat16, device="cuda")
    square = torch.randn(8192, 8192, device="cuda").bfloat16()
    reading = min(_seconds(lambda: block.view(torch.int32).sum()) for _ in range(10))
    multiplying = min(_seconds(lambda: square @ square) for _ in range(20))
    opened = open_folder(folder / "model")
    config = opened.config
    heads, width = config["num_key_value_heads"], config["head_dim"]
    embedding = config["vocab_size"] * config["hidden_size"] * 2
    return Card(
        bytes_per_second=block.nbytes / reading,
        flops_per_second=2 * 8192**3 / multiplying,
        weights_bytes=opened.size_bytes - embedding,  # of the embedding, only rows are read
        kv_bytes_per_token=config["num_hidden_layers"] * heads * width * 2 * 2,
    )


def martlet_contender(name: str) -> Callable[[Path], Figure]:
    """Measures the engine, pool and graphs as the commands set them up."""
    work = WORKS[name]

    def run(folder: Path) -> Figure:
        engine = make_engine(folder, work)
        adapters = [f"adapter-{number}" for number in range(work.num_adapters)]
        for adapter in adapters:
            engine.adapters.install(engine.adapters.prepare(adapter, folder / adapter))
        # Twice: the first time, kernels are compiled and steps recorded.
        run_engine(engine, work, adapters, num_new=2)
        return run_engine(engine, work, adapters, num_new=work.num_new)

    return run


def make_engine(folder: Path, work: Work) -> Engine:
    model = load_model(
        open_folder(folder / "model"),
        dtype=torch.bfloat16,
        device=torch.device("cuda"),
        weights=work.weights,
    )
    longest = work.prompt_length + work.num_new
    config = EngineConfig(
        num_blocks=work.num_requests * (-(-longest // BLOCK_SIZE) + 2),
        block_size=BLOCK_SIZE,
        kv_dtype=work.kv_dtype,
        max_num_requests=work.num_requests,
        max_num_batched_tokens=8192,
        max_context_tokens=longest,
        prefix_sharing=work.sharing,
        # Random weights repeat themselves; no text of people does so much.
        speculation=False,
        uses_kernels=True,
        graph_sizes=graph_ladder(work.num_requests),
    )
    return Engine(model, fit_pool(model, config, utilization=UTILIZATION))


def run_engine(engine: Engine, work: Work, adapters: Sequence[str], *, num_new: int) -> Figure:
    params = SamplingParams(
        temperature=0.7 if work.samples > 1 else 0, max_tokens=num_new, ignore_eos=True
    )
    start = time.perf_counter()
    for index, prompt in enumerate(work.prompts()):
        for sample in range(work.samples):
            number = index * work.samples + sample
            adapter = adapters[number % len(adapters)] if adapters else None
            engine.add(str(number), prompt, params, seed=number, adapter=adapter)
    num_begun = num_after = 0
    begun_at = start
    while engine.num_unfinished:
        outputs = engine.step()
        if num_begun < work.num_requests:
            num_begun += sum(output.request.num_output_tokens == 1 for output in outputs)
            begun_at = time.perf_counter()
        else:
            num_after += sum(len(output.token_ids) for output in outputs)
    end = time.perf_counter()
    return Figure(
        tokens_per_second=work.num_requests * num_new / (end - start),
        decode_tokens_per_second=num_after / (end - begun_at),
        peak_gib=torch.cuda.max_memory_reserved() / 2**30,
    )


@torch.inference_mode()
def measure_static(folder: Path) -> Figure:
    """Transformers' `generate` in static batches."""
    model = _transformers_model(folder)

    def generate(prompts: list[list[int]], count: int) -> None:
        ids = torch.tensor(prompts, device="cuda")
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )

    prompts = BATCH.prompts()
    generate(prompts[:STATIC_BATCH], 2)
    batches = [prompts[first : first + STATIC_BATCH] for first in range(0, 1024, STATIC_BATCH)]
    seconds = _seconds(lambda: [generate(batch, BATCH.num_new) for batch in batches])
    return Figure(tokens_per_second=BATCH.total_new / seconds)


@torch.inference_mode()
def measure_flowing(folder: Path) -> Figure:
    """Transformers' continuous batching."""
    model = _transformers_model(folder)
    config = transformers.GenerationConfig(
        max_new_tokens=BATCH.num_new, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    prompts = BATCH.prompts()
    model.generate_batch(prompts[:16], generation_config=config)
    start = time.perf_counter()
    replies = model.generate_batch(prompts, generation_config=config)
    seconds = time.perf_counter() - start
    return Figure(
        tokens_per_second=sum(len(r.generated_tokens) for r in replies.values()) / seconds
    )


def measure_vllm(folder: Path) -> Figure:
    """vLLM's own benchmark of the same work; random weights need no tokenizer."""
    command = ["vllm", "bench", "throughput", "--model", str(folder / "model")]
    command += ["--skip-tokenizer-init", "--dataset-name", "random", "--max-model-len", "1024"]
    command += ["--input-len", str(BATCH.prompt_length), "--output-len", str(BATCH.num_new)]
    command += ["--num-prompts", str(BATCH.num_prompts), "--max-num-seqs", str(BATCH.num_prompts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"([\d.]+) output tokens/s", done.stdout)
    if found is None:
        raise SystemExit(f"vllm bench throughput told no output tokens/s:\n{done.stdout[-2000:]}")
    return Figure(tokens_per_second=float(found[1]))


def tuning_contender(tune: Callable[..., Tuned], *, qlora: bool) -> Callable[[Path], Figure]:
    """Measures a trainer."""

    def run(folder: Path) -> Figure:
        tuned = tune(folder / "model", Recipe(), torch.device("cuda"), qlora=qlora)
        return Figure(tokens_per_second=tuned.tokens_per_second, peak_gib=tuned.peak_gib)

    return run


CONTENDERS: dict[str, Callable[[Path], Figure | Card]] = {
    "card": measure_card,
    **{name: martlet_contender(name) for name in WORKS},
    "static": measure_static,
    "flowing": measure_flowing,
    "vllm": measure_vllm,
    "lora": tuning_contender(tune_with_martlet, qlora=False),
    "trl-lora": tuning_contender(tune_with_trl, qlora=False),
    "qlora": tuning_contender(tune_with_martlet, qlora=True),
    "trl-qlora": tuning_contender(tune_with_trl, qlora=True),
}


def render(card: Card, figures: dict[str, Figure], num_layers: int) -> str:
    """The results as a page of Markdown."""
    device = torch.cuda.get_device_properties(0)
    lines = [
        "# One GPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {device.name}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}; {num_layers} layers. "
        "Made by `python benchmarks/gpu.py`, whose first lines say what is measured.",
        "",
        f"The card reads {card.bytes_per_second / 1e9:,.0f} GB/s and multiplies at "
        f"{card.flops_per_second / 1e12:,.0f} Tflop/s.",
        "",
        "| work | tokens/s | decoding alone | memory, GiB |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {figure.tokens_per_second:,.1f} | {figure.decode_tokens_per_second:,.1f} | "
        f"{figure.peak_gib:.1f} |"
        for name, figure in figures.items()
    ]
    lines += ["", "| ratio | measured | aim |", "|---|---:|---:|"]
    lines += [f"| {name} | {value} | {aim} |" for name, value, aim in _ratios(card, figures)]
    return "\n".join(lines) + "\n"


def _ratios(card: Card, figures: dict[str, Figure]) -> list[tuple[str, str, str]]:
    rows = []
    if "batch" in figures:
        share = figures["batch"].tokens_per_second * card.seconds(BATCH) / BATCH.total_new
        rows.append(("batch / roofline", f"{share:.0%}", "75%"))
    if "alone" in figures:
        limit = card.bytes_per_second / card.weights_bytes
        share = figures["alone"].decode_tokens_per_second / limit
        rows.append(("alone, decoding / bandwidth", f"{share:.0%}", "85%"))
    for one, other, aim in (
        ("vote", "apart", "3"),
        ("adapters", "base", "0.9"),
        ("batch", "static", "-"),
        ("batch", "flowing", "-"),
        ("batch", "vllm", "-"),
        ("lora", "trl-lora", "1.3"),
        ("qlora", "trl-qlora", "1.3"),
    ):
        if one in figures and other in figures:
            ratio = figures[one].tokens_per_second / figures[other].tokens_per_second
            rows.append((f"{one} / {other}", f"{ratio:.2f}", aim))
    for name, aim in (("fp8", "1.5"), ("fp8-kv", "-")):
        if name in figures and "batch" in figures:
            speeds = [figures[each].decode_tokens_per_second for each in (name, "batch")]
            rows.append((f"{name} / batch, decoding", f"{speeds[0] / speeds[1]:.2f}", aim))
    return rows


def _transformers_model(folder: Path) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.bfloat16, device_map="cuda"
    )
    return model.eval()


def _seconds(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name in CONTENDERS if name != "card"]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="some of the measurements"
    )
    parser.add_argument("--layers", type=int, default=32, help="of the model")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
