"""How far a run is, on stderr: a bar in a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from martlet.batch.summary import Progress

_SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run goes, by what it did since its first report."""

    first: "Progress"
    seconds: float
    """Since then."""

    def tokens_per_second(self, now: "Progress") -> float:
        """Generated tokens a second; 0 before any time has passed."""
        num_tokens = now.num_generated_tokens - self.first.num_generated_tokens
        return num_tokens / self.seconds if self.seconds > 0 else 0.0

    def seconds_left(self, now: "Progress") -> float | None:
        """The time that the other questions will take; None while nothing is known of it."""
        num_done = now.num_questions_done - self.first.num_questions_done
        if num_done == 0:
            return None
        return self.seconds / num_done * (now.num_questions - now.num_questions_done)


@contextmanager
def progress_shown() -> Iterator[Callable[["Progress"], None]]:
    """Shows the progress of a run for as long as the context lasts.

    Yields:
        What is to be called with each report of the run.
    """
    if sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines()


class _Lines:
    """Writes a line every few seconds."""

    def __init__(self) -> None:
        self._first: Progress | None = None
        self._started = monotonic()
        self._num_written = 0

    def __call__(self, progress: "Progress") -> None:
        self._first = self._first or progress
        seconds = monotonic() - self._started
        if seconds < _SECONDS_BETWEEN_LINES * (self._num_written + 1):
            return
        self._num_written = int(seconds / _SECONDS_BETWEEN_LINES)
        print(described(progress, Pace(first=self._first, seconds=seconds)), file=sys.stderr)


@contextmanager
def _bar() -> Iterator[Callable[["Progress"], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Display

    started = monotonic()
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    first: list[Progress] = []
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=None)

        def show(progress: "Progress") -> None:
            first[:] = first or [progress]
            pace = Pace(first=first[0], seconds=monotonic() - started)
            display.update(
                task,
                total=progress.num_questions,
                completed=progress.num_questions_done,
                description=described(progress, pace),
            )

        yield show


def described(progress: "Progress", pace: Pace) -> str:
    """The progress in one line: rows, samples, speed, time left."""
    left = pace.seconds_left(progress)
    parts = [
        f"rows {progress.num_rows_done:,}/{progress.num_rows:,}",
        f"{progress.num_samples_drawn:,} samples",
        f"{pace.tokens_per_second(progress):,.0f} tokens/s",
        "time left unknown" if left is None else f"{clock(left)} left",
    ]
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """A duration as a clock shows it: `3:07`, `1:02:09`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
