"""How long the terminal waits for the first word, and for the end.

    python benchmarks/start.py

A question goes through a pipe to `martlet chat`, which replies with six tokens: on the embedded
model, and on one of the 0.5B's shape with random weights, as they are, in eight and in four bits,
packed anew and read from `--weights-cache`. The clock runs from the command; it is read when the
first byte of the reply comes out of the pipe, and when the process has ended. One start is not
counted, so that files are in the cache and what is compiled and what is packed are there.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
        kept = ("--weights-cache", str(Path(scratch) / "packed"))
        commands: dict[str, tuple[str, ...]] = {"embedded": ("demo",)}
        for name, weights in (("bf16", "stored"), ("int8", "int8"), ("int4", "int4")):
            command = (str(folder), "--weights-as", weights)
            commands[f"0.5B, random, {name}"] = command
            commands[f"0.5B, random, {name}, kept"] = (*command, *kept)
        starts = {name: measure(command, num_starts) for name, command in commands.items()}
    table = render(starts)
    (RESULTS / "start.md").write_text(table, encoding="utf-8")
    print(table)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seconds from the command."""

    first_word: float
    end: float


def measure(arguments: Sequence[str], num_starts: int) -> list[Start]:
    """All starts but the first one."""
    return [start(arguments) for _ in range(num_starts + 1)][1:]


def start(arguments: Sequence[str]) -> Start:
    """Asks a question in a new process, by `martlet chat` and its arguments."""
    command = [sys.executable, "-m", "martlet.cli.main", "chat", *arguments]
    command += ["--max-tokens", str(_NUM_TOKENS)]
    with tempfile.TemporaryFile() as question:
        question.write(b"Who sits right?")
        question.seek(0)
        started = time.monotonic()
        with subprocess.Popen(
            command, stdin=question, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            first_byte = os.read(process.stdout.fileno(), 1)
            first_word = time.monotonic() - started
            process.stdout.read()
        end = time.monotonic() - started
    if process.returncode or not first_byte:
        raise SystemExit(f"{' '.join(command)} gave no reply")
    return Start(first_word=first_word, end=end)


def render(starts: dict[str, list[Start]]) -> str:
    num_starts = len(next(iter(starts.values())))
    lines = [
        "# Start",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {version('transformers')}; {num_starts} starts. "
        "Made by `python benchmarks/start.py`, whose first lines say what is measured.",
        "",
        "| model | seconds to | median | least | most |",
        "|---|---|---:|---:|---:|",
    ]
    for name, measured in starts.items():
        lines.append(_row(name, "the first word", [each.first_word for each in measured]))
        lines.append(_row(name, "the end", [each.end for each in measured]))
    return "\n".join([*lines, ""])


def _row(name: str, until: str, seconds: list[float]) -> str:
    figures = (median(seconds), min(seconds), max(seconds))
    return f"| {name} | {until} | {' | '.join(f'{figure:.2f}' for figure in figures)} |"


if __name__ == "__main__":
    main()
