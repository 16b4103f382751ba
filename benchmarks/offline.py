"""Offline batches on a CPU: Martlet beside transformers, on one model, in one run.

    python benchmarks/offline.py            # everything, about ten minutes on two cores
    python benchmarks/offline.py --rounds 3 # more rounds, for the spread

The model has the shape of Qwen2 0.5B and random weights in bf16: speed does not depend on what the
weights say, and nothing has to be downloaded. Each measurement runs in a process of its own, the
contenders take turns, and the ratios are those of one run. The table goes to `benchmarks/results/`.

    alone   1 prompt of 128 tokens, 128 new ones
    batch   64 prompts of 256, 128 new ones each
    vote    32 problems that share 256 tokens, 128 of their own, 3 samples of 128 at temperature 0.7

Greedy unless it says otherwise; nothing ends early. One by one is measured on 4 of the 64 prompts.
"""

import argparse
import json
import mmap
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from common import RESULTS, prompts
from martlet.bench.machine import machine
from martlet.bench.random_model import make_model
from martlet.models.weights import Weights

NUM_NEW_TOKENS = 128
ONE_BY_ONE = 4


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one process measured."""

    tokens_per_second: float
    """Drawn tokens over the whole time, prompts included."""
    decode_tokens_per_second: float
    """Without the time to the first token; 0 where it was not measured."""
    bandwidth_gb_per_second: float
    """What reading memory gave right before."""
    weights_bytes: int
    pool_bytes: int
    """Of the key-value pool, as far as it was used."""
    peak_bytes: int
    """Of the process, with its libraries."""


def main() -> None:
    arguments = _parse_arguments()
    if arguments.contender:
        folder = Path(arguments.model)
        print(json.dumps(asdict(CONTENDERS[arguments.contender](folder))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "qwen2-0.5b-random")
        figures: dict[str, list[Figure]] = {name: [] for name in CONTENDERS}
        for number in range(arguments.rounds):
            for name in CONTENDERS:
                figure = measure(name, folder)
                figures[name].append(figure)
                print(
                    f"round {number + 1}  {name:32} {figure.tokens_per_second:7.1f} tokens/s",
                    file=sys.stderr,
                )
    RESULTS.mkdir(exist_ok=True)
    table = render(figures)
    (RESULTS / "offline.md").write_text(table, encoding="utf-8")
    raw = {name: [asdict(figure) for figure in several] for name, several in figures.items()}
    (RESULTS / "offline.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    print(table)


def measure(contender: str, folder: Path) -> Figure:
    """Runs one contender in a process of its own."""
    command = [sys.executable, __file__, "--contender", contender, "--model", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Figure(**json.loads(done.stdout.splitlines()[-1]))


def vote_prompts() -> list[list[int]]:
    (shared,) = prompts(1, 256, seed=1)
    return [shared + own for own in prompts(32, 128)]


def read_bandwidth() -> float:
    """Gigabytes per second that all threads together read from memory, at best of five.

    In huge pages where there are any: with small ones the same memory gives less.
    """
    memory = mmap.mmap(-1, 2**28)  # 256 MiB, far larger than any cache
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    block = torch.frombuffer(memory, dtype=torch.float32).fill_(1)
    best = min(_seconds(block.sum) for _ in range(5))
    return block.nbytes / best / 1e9


def martlet_contender(
    work: list[list[int]],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    sharing: bool = True,
    weights: Weights = "stored",
) -> Callable[[Path], Figure]:
    """Measures the engine; the pool is as large as the work needs without sharing."""

    def run(folder: Path) -> Figure:
        from martlet.engine.config import EngineConfig
        from martlet.engine.engine import Engine
        from martlet.engine.params import SamplingParams
        from martlet.models.folder import open_folder
        from martlet.models.load import load_model
        from martlet.models.weights import held_bytes

        opened = open_folder(folder)
        model = load_model(
            opened, dtype=torch.bfloat16, device=torch.device("cpu"), weights=weights
        )
        num_requests = len(work) * samples
        longest = max(map(len, work)) + NUM_NEW_TOKENS
        config = EngineConfig(
            num_blocks=num_requests * -(-longest // 16),
            max_num_requests=num_requests,
            max_context_tokens=longest,
            prefix_sharing=sharing,
            speculation=False,  # Replies of random weights go round in circles.
        )
        params = SamplingParams(temperature=temperature, max_tokens=NUM_NEW_TOKENS, ignore_eos=True)
        engine = Engine(model, config)
        engine.add("warm-up", [1] * 64, SamplingParams(max_tokens=2), seed=0)
        while engine.num_unfinished:
            engine.step()
        bandwidth = read_bandwidth()
        start = time.perf_counter()
        for index, prompt in enumerate(work):
            for k in range(samples):
                engine.add(f"{index}-{k}", prompt, params, seed=index * samples + k)
        first_token = 0.0
        least_free = config.num_blocks
        while engine.num_unfinished:
            drawn = engine.step()
            assert engine.last_step is not None
            least_free = min(least_free, engine.last_step.num_free_blocks)
            first_token = first_token or (time.perf_counter() - start if drawn else 0.0)
        seconds = time.perf_counter() - start
        return Figure(
            tokens_per_second=num_requests * NUM_NEW_TOKENS / seconds,
            decode_tokens_per_second=(NUM_NEW_TOKENS - 1) / (seconds - first_token),
            bandwidth_gb_per_second=bandwidth,
            weights_bytes=held_bytes(opened, torch.bfloat16, weights),
            pool_bytes=(config.num_blocks - least_free) * 16 * model.cache_bytes_per_token,
            peak_bytes=_peak_bytes(),
        )

    return run


def transformers_contender(work: list[list[int]], *, batch_size: int) -> Callable[[Path], Figure]:
    """Measures plain `generate` in static batches; every prompt has the same length."""

    @torch.inference_mode()
    def run(folder: Path) -> Figure:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        model.eval()

        def generate(batch: list[list[int]], count: int) -> None:
            ids = torch.tensor(batch)
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )

        generate([[1] * 64], 2)
        bandwidth = read_bandwidth()
        first_token = _seconds(lambda: generate(work[:batch_size], 1))
        start = time.perf_counter()
        for first in range(0, len(work), batch_size):
            generate(work[first : first + batch_size], NUM_NEW_TOKENS)
        seconds = time.perf_counter() - start
        num_batches = -(-len(work) // batch_size)
        return Figure(
            tokens_per_second=len(work) * NUM_NEW_TOKENS / seconds,
            decode_tokens_per_second=(NUM_NEW_TOKENS - 1) / (seconds / num_batches - first_token),
            bandwidth_gb_per_second=bandwidth,
            weights_bytes=sum(p.nbytes for p in model.parameters()),
            pool_bytes=0,
            peak_bytes=_peak_bytes(),
        )

    return run


CONTENDERS: dict[str, Callable[[Path], Figure]] = {
    "alone, transformers": transformers_contender(prompts(1, 128), batch_size=1),
    "alone, martlet": martlet_contender(prompts(1, 128)),
    "batch, transformers one by one": transformers_contender(
        prompts(64, 256)[:ONE_BY_ONE], batch_size=1
    ),
    "batch, transformers static": transformers_contender(prompts(64, 256), batch_size=64),
    "batch, martlet": martlet_contender(prompts(64, 256)),
    "vote, martlet without sharing": martlet_contender(
        vote_prompts(), samples=3, temperature=0.7, sharing=False
    ),
    "vote, martlet": martlet_contender(vote_prompts(), samples=3, temperature=0.7),
}
RATIOS = [
    ("batch, martlet", "batch, transformers static", 2.4),
    ("batch, martlet", "batch, transformers one by one", 12.0),
    ("vote, martlet", "vote, martlet without sharing", 1.5),
]


def render(figures: dict[str, list[Figure]]) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# Offline batches on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, {compiler()}. "
        "Made by `python benchmarks/offline.py`, whose first lines say what is measured.",
        "",
        "| work | tokens/s, median | least | most | peak memory, GB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, several in figures.items():
        speeds = [figure.tokens_per_second for figure in several]
        peak = max(figure.peak_bytes for figure in several) / 1e9
        lines.append(
            f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f} | "
            f"{max(speeds):.1f} | {peak:.2f} |"
        )
    lines += ["", "| ratio | measured | aim |", "|---|---:|---:|"]
    lines += [f"| {name} | {value} | {wanted} |" for name, value, wanted in _ratios(figures)]
    return "\n".join(lines) + "\n"


def _ratios(figures: dict[str, list[Figure]]) -> list[tuple[str, str, str]]:
    median = {
        name: statistics.median(figure.tokens_per_second for figure in several)
        for name, several in figures.items()
    }
    rows = [
        (f"{one} / {other}", f"{median[one] / median[other]:.2f}", f"{wanted:g}")
        for one, other, wanted in RATIOS
    ]
    decode = {
        name: statistics.median(f.decode_tokens_per_second for f in figures[f"alone, {name}"])
        for name in ("martlet", "transformers")
    }
    alone = figures["alone, martlet"]
    limit = statistics.median(f.bandwidth_gb_per_second * 1e9 / f.weights_bytes for f in alone)
    over = max(
        figure.peak_bytes - figure.weights_bytes - figure.pool_bytes
        for name, several in figures.items()
        for figure in several
        if "martlet" in name
    )
    speed = f"{decode['martlet']:.1f} and {decode['transformers']:.1f} tokens/s"
    rows += [
        (
            f"alone, decoding: martlet / transformers ({speed})",
            f"{decode['martlet'] / decode['transformers']:.2f}",
            "1.6",
        ),
        (
            f"alone, decoding: share of the limit with weights of 16 bits ({limit:.1f} tokens/s)",
            f"{decode['martlet'] / limit:.0%}",
            "60%",
        ),
        (
            "martlet's peak memory beyond weights of 16 bits and pool, GB",
            f"{over / 1e9:.2f}",
            "below 1",
        ),
    ]
    return rows


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak_bytes() -> int:
    """Of this process alone: `ru_maxrss` would count what its parent was before."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def compiler() -> str:
    from martlet.models.compiled.threads import can_compile

    return f"numba {version('numba')}" if can_compile() else "nothing compiled"


if __name__ == "__main__":
    main()
