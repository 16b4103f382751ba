"""A short look at a run: its own rows, drawn for some seconds, with the journal in place.

Every reply that ends meanwhile is kept, and the run finds it there. Rows are taken from all over
the file, which may be sorted; a few neighbours at a time, which may share their beginning.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from random import Random
from time import monotonic

from martlet.backends.base import Backend
from martlet.backends.native import NativeBackend
from martlet.batch.journal import Journal
from martlet.batch.plan import PlannedQuestion
from martlet.batch.run import Run, Tally
from martlet.batch.task import Task
from martlet.errors import Interrupted
from martlet.forecast.costs import Load
from martlet.forecast.peak import Peak

SECONDS = 20.0
_NUM_NEIGHBOURS = 8


@dataclass(frozen=True, kw_only=True)
class Look:
    """How far a probe is."""

    seconds: float
    num_samples: int
    num_tokens: int
    """Of the replies that ended."""


@dataclass(frozen=True, kw_only=True)
class Halfway:
    """When half of a probe's time was over."""

    peak: Peak
    num_tokens: int
    """That the native engine had computed."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was seen."""

    seconds: float
    ends: tuple[tuple[float, int], ...]
    """After how many seconds how many samples had been drawn, whenever that changed."""
    loads: tuple[Load, ...]
    """Steps of the native engine, but for the first, which warms up."""
    load_seconds: tuple[float, ...]
    """What each took, with all that the run did around it."""
    unended: tuple[int, ...]
    """Tokens of the native engine's replies that were still growing."""
    share_computed: float
    """Of the tokens of prompts; the others were found in the pool."""
    halfway: Halfway | None
    """None if all was drawn before."""
    peak: Peak
    """At its end: to estimate takes memory too, and the run will not."""


@dataclass(kw_only=True)
class _Watch:
    """Notes what a run does until the time is over."""

    backend: Backend
    deadline_s: float
    asked_to_stop: Callable[[], bool]
    show: Callable[[Look], None]
    started: float = field(default_factory=monotonic)
    seen_s: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    load_seconds: list[float] = field(default_factory=list)
    unended: tuple[int, ...] = ()
    halfway: Halfway | None = None

    def on_step(self, tally: Tally) -> None:
        now = monotonic() - self.started
        if self.halfway is None and now > self.deadline_s / 2:
            num_tokens = _num_computed(self.backend)
            self.halfway = Halfway(peak=Peak.read(), num_tokens=num_tokens)
        if tally.num_samples_drawn > (self.ends[-1][1] if self.ends else 0):
            self.ends.append((now, tally.num_samples_drawn))
        step = self.backend.engine.last_step if isinstance(self.backend, NativeBackend) else None
        if step is not None:
            self.loads.append(
                Load(
                    steps=1,
                    tokens=step.num_tokens,
                    drawn=step.num_drawn,
                    attended=step.num_attended,
                )
            )
            self.load_seconds.append(now - self.seen_s)
        self.seen_s = now
        self.show(
            Look(
                seconds=now,
                num_samples=tally.num_samples_drawn,
                num_tokens=tally.num_generated_tokens,
            )
        )

    def should_stop(self) -> bool:
        if self.asked_to_stop():
            raise Interrupted("stopped in the probe; the replies that had ended are kept")
        if monotonic() - self.started < self.deadline_s:
            return False
        if isinstance(self.backend, NativeBackend):
            self.unended = tuple(self.backend.unfinished_lengths)
        return True


def probe(
    task: Task,
    questions: Sequence[PlannedQuestion],
    *,
    backend: Backend,
    journal: Journal,
    seconds: float = SECONDS,
    show: Callable[[Look], None] = lambda _: None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Probe:
    """Draws samples for some seconds, or to the end if that comes first.

    Raises:
        Interrupted: If `asked_to_stop` said so.
        MartletError: As `Run.finish` does.
    """
    watch = _Watch(backend=backend, deadline_s=seconds, asked_to_stop=asked_to_stop, show=show)
    run = Run(
        backend=backend,
        journal=journal,
        questions=_from_all_over(questions),
        policy_of=task.policy_of,
        on_outcome=lambda _: None,
    )
    try:
        run.finish(on_step=watch.on_step, stop_requested=watch.should_stop)
    except Interrupted:
        if asked_to_stop():
            raise
    num_started = run.tally.num_samples_drawn + sum(length > 0 for length in watch.unended)
    return Probe(
        seconds=monotonic() - watch.started,
        ends=tuple(watch.ends),
        loads=tuple(watch.loads[1:]),
        load_seconds=tuple(watch.load_seconds[1:]),
        unended=watch.unended,
        share_computed=_share_computed(backend, num_started),
        halfway=watch.halfway,
        peak=Peak.read(),
    )


def _from_all_over(questions: Sequence[PlannedQuestion]) -> Iterator[PlannedQuestion]:
    rows = [list(row) for _, row in groupby(questions, key=lambda each: each.row.number)]
    places = [*range(0, len(rows), _NUM_NEIGHBOURS)]
    Random(0).shuffle(places)
    for place in places:
        yield from chain.from_iterable(rows[place : place + _NUM_NEIGHBOURS])


def _num_computed(backend: Backend) -> int:
    return backend.stats.num_tokens if isinstance(backend, NativeBackend) else 0


def _share_computed(backend: Backend, num_started: int) -> float:
    if not isinstance(backend, NativeBackend):
        return 1.0
    stats = backend.stats
    # What else went through the model is replies, but for the last token of each.
    num_computed = stats.num_tokens - (stats.num_drawn - num_started)
    num_tokens = num_computed + stats.num_cached_tokens
    return num_computed / num_tokens if num_tokens else 1.0
