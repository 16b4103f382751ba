"""One linear layer with few and many rows: bf16, eight and four bits, by each operator there is.

    python benchmarks/products.py           # about a minute
    OMP_NUM_THREADS=1 python benchmarks/products.py

The layers are those of the MLP of Qwen2 0.5B. There are as many copies of each as fill 256 MB and
take turns, so that weights come from memory, as in a model. Operators take turns too; the median of
their rounds is shown, in GFLOP/s, rounding of tokens included. The table goes to
`benchmarks/results/`.
"""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from common import RESULTS
from martlet.bench.machine import machine
from martlet.models.heap import huge_pages
from martlet.models.linear.fastest import fastest_bf16
from martlet.models.linear.int4 import Int4Linear
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.packed import PackedLinear
from martlet.models.linear.rounded import to_int4, to_int4_steps, to_int8
from offline import read_bandwidth

SHAPES = [(4864, 896), (896, 4864)]
"""Outputs and inputs."""
ROWS = (1, 4, 16, 64, 256, 1024)
ROUNDS = 3
MEMORY_BYTES = 256e6

OPERATORS: dict[
    str, tuple[float, Callable[[Any], nn.Module], Callable[[Any], nn.Module | None]]
] = {
    "bf16, packed": (2.0, lambda linear: linear, PackedLinear),
    "bf16, twelve bits": (1.5, lambda linear: linear, fastest_bf16),
    "int8, oneDNN": (1.0, to_int8, Int8Linear),
    "int8, compiled": (1.0, to_int8, IntegerLinear),
    "int4, ATen": (0.625, to_int4, Int4Linear),
    "int4, compiled": (0.531, to_int4_steps, IntegerLinear),
}
"""The bytes of a weight, how a layer is rounded, and what is made of it."""


@torch.inference_mode()
def main() -> None:
    num_threads = torch.get_num_threads()
    threads = f"{num_threads} threads" if num_threads > 1 else "1 thread"
    lines = [
        "# Products of few bits on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {threads}; Python "
        f"{platform.python_version()}, torch {torch.__version__}. Made by `python "
        "benchmarks/products.py`, whose first lines say what is measured. GFLOP/s by rows; memory "
        f"was read with {read_bandwidth():.0f} GB/s before.",
    ]
    for num_outputs, width in SHAPES:
        lines += ["", f"| {width} inputs, {num_outputs} outputs | {' | '.join(map(str, ROWS))} |"]
        lines.append(f"|---|{'---:|' * len(ROWS)}")
        copies = {name: copies_of(name, num_outputs, width) for name in OPERATORS}
        for name, row in compare(copies, width).items():
            gflops = [2 * num_outputs * width * rows / seconds / 1e9 for rows, seconds in row]
            lines.append(f"| {name} | {' | '.join(f'{each:.0f}' for each in gflops)} |")
    table = "\n".join(lines) + "\n"
    (RESULTS / "products.md").write_text(table, encoding="utf-8")
    print(table)


def copies_of(name: str, num_outputs: int, width: int) -> list[nn.Module]:
    """As many layers by one operator as no cache holds."""
    torch.manual_seed(0)
    linear = nn.Linear(width, num_outputs, bias=False, dtype=torch.bfloat16)
    bytes_a_weight, rounded, operator = OPERATORS[name]
    stored = rounded(linear.requires_grad_(False))
    count = int(MEMORY_BYTES / (num_outputs * width * bytes_a_weight)) + 1
    with huge_pages(int(MEMORY_BYTES * 1.5)):
        return [operator(stored) for _ in range(count)]


def compare(copies: dict[str, list[nn.Module]], width: int) -> dict[str, list[tuple[int, float]]]:
    """The seconds that a product takes, by operator, for each number of rows."""
    table: dict[str, list[tuple[int, float]]] = {name: [] for name in copies}
    for num_rows in ROWS:
        x = torch.randn(num_rows, width).bfloat16()
        seconds: dict[str, list[float]] = {name: [] for name in copies}
        for _ in range(ROUNDS):
            for name, layers in copies.items():
                seconds[name].append(seconds_of(layers, x))
        for name, each in seconds.items():
            table[name].append((num_rows, statistics.median(each)))
    return table


def seconds_of(layers: list[nn.Module], x: Tensor) -> float:
    """Of one layer, on average over a few or over all."""
    layers = layers[: max(4, len(layers) * 4 // len(x))]
    start = time.perf_counter()
    for layer in layers:
        layer(x)
    return (time.perf_counter() - start) / len(layers)


if __name__ == "__main__":
    main()
