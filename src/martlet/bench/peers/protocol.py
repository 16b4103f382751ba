"""What a bench and its contestants say to each other, in lines of JSON through two pipes.

A contestant is a module of this folder, run by a Python of its own (3.10 or later) that need not
know Martlet: so this file imports the standard library alone. The bench gives it the path of a job,
waits until it tells its version, names works by their number, and reads a figure for each.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

_WARM_UP_TOKENS = 64
_CONVERT = "convert"


@dataclass(frozen=True)
class Ask:
    """One prompt and how long the reply to it is."""

    prompt_ids: list[int]
    num_new_tokens: int
    """Exactly, unless the work has tokens that end a reply."""


@dataclass(frozen=True)
class Work:
    """What every contestant computes: the same ids, all of them waiting at the start."""

    name: str
    title: str
    asks: list[Ask]
    num_samples: int = 1
    """Replies to each prompt."""
    temperature: float = 0.0
    stop_ids: list[int] = field(default_factory=list)
    """Tokens that end a reply early; none where every reply has its full length."""

    @property
    def num_requests(self) -> int:
        """Replies altogether."""
        return len(self.asks) * self.num_samples

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its reply."""
        return max(len(ask.prompt_ids) + ask.num_new_tokens for ask in self.asks)


@dataclass(frozen=True)
class Job:
    """What a contestant is started with."""

    model: str
    """A folder as Hugging Face's libraries write it."""
    converted: str
    """Where an engine with a format of its own puts the model; kept for the next round."""
    dtype: str
    """`bfloat16` or `float32`."""
    weights: str
    """`stored`, `int8` or `int4`."""
    num_threads: int
    works: list[Work]

    @classmethod
    def read(cls, path: str) -> "Job":
        """Reads what `write` wrote."""
        given = json.loads(Path(path).read_text(encoding="utf-8"))
        works = [
            Work(**{**work, "asks": [Ask(**ask) for ask in work["asks"]]})
            for work in given.pop("works")
        ]
        return cls(works=works, **given)

    def write(self, path: Path) -> None:
        """Writes the job as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def longest(self) -> int:
        """Tokens of the longest request of all works."""
        return max(work.longest for work in self.works)

    @property
    def most_requests(self) -> int:
        """Requests of the largest work."""
        return max(work.num_requests for work in self.works)


class Timeline:
    """When each token of each reply came; the clock starts with its making."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._arrivals: dict[str, list[tuple[float, int]]] = {}
        self._is_blind = False

    def drawn(self, reply: str, num_tokens: int = 1) -> None:
        """Notes new tokens of a reply, now.

        Args:
            reply: Any name, the same for each token of a reply.
            num_tokens: That came at once.
        """
        moment = time.perf_counter() - self._start
        self._arrivals.setdefault(reply, []).append((moment, num_tokens))

    def finished(self, reply: str, num_tokens: int) -> None:
        """Notes a whole reply, of an engine that does not tell when its tokens came."""
        self.drawn(reply, num_tokens)
        self._is_blind = True

    def figures(self) -> dict[str, Any]:
        """Tokens, seconds, and in milliseconds how long the first and the next token took."""
        return {
            "num_tokens": sum(n for arrivals in self._arrivals.values() for _, n in arrivals),
            "num_replies": len(self._arrivals),
            "seconds": max(arrivals[-1][0] for arrivals in self._arrivals.values()),
            **self._waiting(),
        }

    def _waiting(self) -> dict[str, float | None]:
        first = [1e3 * arrivals[0][0] for arrivals in self._arrivals.values()]
        between = [
            1e3 * (moment - before) / num_tokens
            for arrivals in self._arrivals.values()
            for (before, _), (moment, num_tokens) in pairwise(arrivals)
            for _ in range(num_tokens)
        ]
        return {
            "first_token_p50_ms": self._percentile(first, 50),
            "first_token_p99_ms": self._percentile(first, 99),
            "between_tokens_p50_ms": self._percentile(between, 50),
            "between_tokens_p99_ms": self._percentile(between, 99),
        }

    def _percentile(self, values: Sequence[float], percent: int) -> float | None:
        if self._is_blind or not values:
            return None
        if len(values) == 1:
            return values[0]
        return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


Run = Callable[[Work, Timeline], None]
"""Computes a work, noting every token."""


def contest(
    make: Callable[[Job], Run],
    version: Callable[[], str],
    convert: Callable[[Job], None] | None = None,
) -> None:
    """Runs a contestant to the end of its input.

    Args:
        make: Imports the engine and loads the model of a job.
        version: Of the engine, as a reader knows it; asked for when the model is loaded.
        convert: Makes `Job.converted`, for an engine with a format of its own.
    """
    job = Job.read(sys.argv[1])
    if convert is not None and not Path(job.converted).exists():
        if sys.argv[-1] == _CONVERT:
            convert(job)
            return
        # In a process of its own, whose time and memory are not the engine's.
        subprocess.run([*sys.orig_argv, _CONVERT], stdout=sys.stderr, check=True)
    start = time.perf_counter()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Engines print what they like to stdout.

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    run = make(job)
    run(_warm_up(job), Timeline())
    gc.freeze()  # Whatever was loaded stays: nobody's time goes on looking through it for garbage.
    say({"version": version(), "ready_s": time.perf_counter() - start})
    for line in sys.stdin:
        _reset_peaks()
        timeline = Timeline()
        run(job.works[int(line)], timeline)
        say({**timeline.figures(), "peak_bytes": _peak_bytes()})


def batches(work: Work, size: int) -> list[list[tuple[str, Ask]]]:
    """The replies of a work in groups, for engines that compute such; each has a name."""
    named = [
        (f"{index}-{k}", ask)
        for index, ask in enumerate(work.asks)
        for k in range(work.num_samples)
    ]
    return [named[first : first + size] for first in range(0, len(named), size)]


def _warm_up(job: Job) -> Work:
    num_tokens = min(_WARM_UP_TOKENS, job.longest - 2)
    return Work(name="warm-up", title="", asks=[Ask([1] * max(1, num_tokens), 2)])


def _processes() -> list[Path]:
    """This process and all that it started, as folders of `/proc`; none where there is no such."""
    found, waiting = [], [Path("/proc/self")]
    while waiting:
        process = waiting.pop()
        try:
            children = [
                child
                for tasks in process.glob("task/*/children")
                for child in tasks.read_text().split()
            ]
        except OSError:  # It has just ended.
            continue
        found.append(process)
        waiting += [Path("/proc", child) for child in children]
    return found if found and (found[0] / "status").exists() else []


def _reset_peaks() -> None:
    for process in _processes():
        try:
            (process / "clear_refs").write_text("5")
        except OSError:
            continue


def _peak_bytes() -> int:
    """Of this process and its children together since the last reset; 0 where nothing tells it."""
    total = 0
    for process in _processes():
        lines = (process / "status").read_text(encoding="utf-8").splitlines()
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    return total
