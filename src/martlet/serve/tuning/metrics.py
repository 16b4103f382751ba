"""What a run's `metrics.jsonl` tells while it grows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Line = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The reports of a run so far, the oldest first, of all processes that it took."""

    lines: Sequence[Line]

    @classmethod
    def read(cls, path: Path) -> "Metrics":
        """What the file holds, but for a line that is being written; nothing if there is none."""
        if not path.exists():
            return cls(lines=())
        lines = path.read_bytes().split(b"\n")[:-1]
        return cls(lines=[read for line in lines if (read := _read(line)) is not None])

    @property
    def num_tokens(self) -> int:
        """That all processes computed: each counts from 0."""
        total = previous = 0.0
        for line in self.lines:
            total += line["num_tokens"] - (previous if line["num_tokens"] >= previous else 0)
            previous = line["num_tokens"]
        return int(total)

    @property
    def seconds_left(self) -> float | None:
        """None before the first step."""
        if not self.lines or not self.lines[-1]["num_steps_here"]:
            return None
        last = self.lines[-1]
        seconds_a_step = last["seconds"] / last["num_steps_here"]
        return seconds_a_step * (last["num_steps"] - last["step"])

    def last(self, name: str) -> float | None:
        """The newest value of a metric that stands in some lines only."""
        return next((line[name] for line in reversed(self.lines) if name in line), None)


def message_of(line: Line) -> str:
    """A report in words."""
    parts = [f"step {line['step']:,}/{line['num_steps']:,}"]
    if "loss" in line:
        parts.append(f"training loss {line['loss']:.4f}")
    if "validation_loss" in line:
        parts.append(f"validation loss {line['validation_loss']:.4f}")
    return ", ".join(parts)


def data_of(line: Line) -> dict[str, float]:
    """A report as OpenAI's clients read it."""
    names = {
        "step": "step",
        "num_steps": "total_steps",
        "epoch": "epoch",
        "loss": "train_loss",
        "validation_loss": "valid_loss",
        "learning_rate": "learning_rate",
    }
    return {given: line[name] for name, given in names.items() if name in line}


def _read(line: bytes) -> Line | None:
    """A line that was cut off when its process was killed is left out."""
    try:
        read: Line = json.loads(line)
    except ValueError:
        return None
    return read
