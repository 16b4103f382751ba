"""How long the terminal waits for the first answer: from the command to its end.

    python benchmarks/start.py

A question goes through a pipe to `martlet chat`, which replies with six tokens: on the embedded
model, and on one of the 0.5B's shape with random weights in bf16. One start is not counted, so
that files are in the cache and what is compiled is there.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from common import RESULTS
from martlet.bench.machine import machine
from martlet.bench.random_model import make_model

_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_NUM_TOKENS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a start takes.")
    parser.add_argument("--starts", type=int, default=5, help="of each model, that are counted")
    num_starts = parser.parse_args().starts
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "model")
        (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
        models = {"embedded": "demo", "0.5B, random, bf16": str(folder)}
        times = {name: measure(model, num_starts) for name, model in models.items()}
    table = render(times)
    (RESULTS / "start.md").write_text(table, encoding="utf-8")
    print(table)


def measure(model: str, num_starts: int) -> list[float]:
    """Seconds of each start, the first one left out."""
    return [seconds(model) for _ in range(num_starts + 1)][1:]


def seconds(model: str) -> float:
    """From the command to its end."""
    command = [sys.executable, "-m", "martlet.cli.main", "chat", model]
    command += ["--max-tokens", str(_NUM_TOKENS)]
    started = time.monotonic()
    subprocess.run(command, input=b"Who sits right?", capture_output=True, check=True)
    return time.monotonic() - started


def render(times: dict[str, list[float]]) -> str:
    num_starts = len(next(iter(times.values())))
    lines = [
        "# Start",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {version('transformers')}; {num_starts} starts. "
        "Made by `python benchmarks/start.py`, whose first lines say what is measured.",
        "",
        "| model | median, s | least, s | most, s |",
        "|---|---:|---:|---:|",
    ]
    for name, taken in times.items():
        lines.append(f"| {name} | {median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
