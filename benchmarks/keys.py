"""Keys and values as a model computes them and in eight bits, on a CPU: speed, room, and quality.

    python benchmarks/keys.py            # about eight minutes on two cores

Speed is that of decoding, of a model of Qwen2 0.5B's shape with random weights: some requests whose
contexts are in the pool draw a token a step, with either pool in turns. Quality is measured on the
embedded model, as `benchmarks/weights.py` measures that of weights, with PyTorch's operations and
with the compiled attention. The table goes to `benchmarks/results/`.
"""

import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from common import RESULTS, prompts
from martlet.bench.machine import machine
from martlet.bench.random_model import make_model
from martlet.engine.config import EngineConfig, KVDtype
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.runner import cache_bytes_per_token
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel, load_model
from martlet.models.weights import Weights
from weights import Quality, quality

KINDS: tuple[KVDtype, ...] = ("model", "int8")
WAYS: tuple[Weights, ...] = ("stored", "int4")
CASES = ((1, 8192), (8, 4096), (64, 320))
"""Requests, and the tokens of their prompts."""
NUM_STEPS, NUM_TURNS = 4, 9
NUM_NEW_TOKENS = 192
"""More than are drawn while the last prompts are computed, and after."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of decoding, with either pool."""

    weights: Weights
    num_requests: int
    num_tokens: int
    milliseconds: dict[KVDtype, list[float]]
    """Of a step, by turns."""


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = open_folder(make_model(Path(scratch) / "model"))
        speeds, room = [], {}
        for weights in WAYS:
            model = load_model(
                folder, dtype=torch.bfloat16, device=torch.device("cpu"), weights=weights
            )
            speeds += [measure(model, weights, *case) for case in CASES]
            room = {kind: cache_bytes_per_token(model, config(1, 16, kind)) for kind in KINDS}
            del model
    qualities = {
        ("PyTorch's operations", "model"): quality("stored"),
        ("PyTorch's operations", "int8"): quality("stored", "int8"),
        ("compiled", "model"): quality("stored", for_crowd=True),
        ("compiled", "int8"): quality("stored", "int8", for_crowd=True),
    }
    table = render(speeds, room, qualities)
    (RESULTS / "keys.md").write_text(table, encoding="utf-8")
    print(table)


def config(num_requests: int, num_tokens: int, kind: KVDtype) -> EngineConfig:
    longest = num_tokens + NUM_NEW_TOKENS
    return EngineConfig(
        num_blocks=num_requests * -(-longest // 16),
        kv_dtype=kind,
        max_num_requests=num_requests,
        max_context_tokens=longest,
        speculation=False,
    )


def measure(model: LoadedModel, weights: Weights, num_requests: int, num_tokens: int) -> Speed:
    """Fills the pools with prompts, and then draws in turns."""
    engines = {kind: Engine(model, config(num_requests, num_tokens, kind)) for kind in KINDS}
    params = SamplingParams(temperature=0, max_tokens=NUM_NEW_TOKENS, ignore_eos=True)
    for engine in engines.values():
        for index, ids in enumerate(prompts(num_requests, num_tokens)):
            engine.add(str(index), ids, params, seed=0)
        while engine.last_step is None or engine.last_step.num_tokens != num_requests:
            engine.step()
    milliseconds: dict[KVDtype, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(NUM_TURNS):
        for kind, engine in engines.items():
            start = time.perf_counter()
            for _ in range(NUM_STEPS):
                engine.step()
            milliseconds[kind].append((time.perf_counter() - start) / NUM_STEPS * 1e3)
    print(weights, num_requests, num_tokens, milliseconds, file=sys.stderr)
    return Speed(
        weights=weights,
        num_requests=num_requests,
        num_tokens=num_tokens,
        milliseconds=milliseconds,
    )


def render(
    speeds: list[Speed], room: dict[KVDtype, int], qualities: dict[tuple[str, KVDtype], Quality]
) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# Keys and values in eight bits on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}. Made by `python benchmarks/keys.py`, whose first lines say "
        "what is measured.",
        "",
        f"A token takes {room['model']:,} bytes in bf16 and {room['int8']:,} in eight bits. "
        f"Milliseconds of a step of decoding, median of {NUM_TURNS} turns:",
        "",
        "| weights | requests | tokens of each | bf16 | int8 | times as fast |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in speeds:
        plain, rounded = (statistics.median(each.milliseconds[kind]) for kind in KINDS)
        lines.append(
            f"| {each.weights} | {each.num_requests} | {each.num_tokens:,} | {plain:.1f} | "
            f"{rounded:.1f} | {plain / rounded:.2f} |"
        )
    lines += [
        "",
        "The embedded model in bf16, against fp32:",
        "",
        "| attention | keys and values | mean KL, nats | same first token |",
        "|---|---|---:|---:|",
    ]
    for (attention, kind), cost in qualities.items():
        name = "bf16" if kind == "model" else kind
        lines.append(f"| {attention} | {name} | {cost.mean_kl:.5f} | {cost.top1_agreement:.2%} |")
    num_tokens = next(iter(qualities.values())).num_tokens
    return "\n".join([*lines, "", f"Over {num_tokens:,} positions.", ""])


if __name__ == "__main__":
    main()
