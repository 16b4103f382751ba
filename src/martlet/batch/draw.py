"""One question while its samples are drawn: what is there, what is missing, when it is decided."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from martlet.batch.plan import PlannedQuestion
from martlet.batch.policy import SamplePolicy
from martlet.batch.sample import StoredSample


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a question: the samples that decided it, or why it failed."""

    planned: PlannedQuestion
    samples: tuple[StoredSample, ...]
    """Samples 0 to m - 1; what finished beyond them by chance of timing is not here."""
    num_reused: int
    """How many of them an earlier run had drawn."""
    error: str | None = None


class Draw:
    """The samples of one question. Its outcome is a function of the samples, not of their order."""

    def __init__(
        self, planned: PlannedQuestion, policy: SamplePolicy, known: Mapping[int, StoredSample]
    ) -> None:
        """Starts with the `known` samples of earlier runs, by k."""
        self.planned = planned
        self.requested: set[int] = set()
        """Indices that are queued or being drawn; kept by the run."""
        self._policy = policy
        self._known = frozenset(known)
        self._samples = dict(known)
        self._failures: dict[int, StoredSample] = {}
        self._prefix: dict[int, StoredSample] = {}
        self._wanted: frozenset[int] = frozenset()
        self._ask()
        self._advance()

    @property
    def missing(self) -> frozenset[int]:
        """The indices that are wanted, and neither finished nor failed."""
        return self._wanted.difference(self._samples, self._failures)

    @property
    def num_finished(self) -> int:
        """Samples that are there, also those that the outcome does not need."""
        return len(self._samples)

    @property
    def samples(self) -> tuple[StoredSample, ...]:
        """Those samples."""
        return tuple(self._samples.values())

    def take(self, samples: Iterable[StoredSample]) -> None:
        """Adds samples, finished or failed, and asks the policy again; `missing` changes."""
        for sample in samples:
            place = self._samples if sample.error is None else self._failures
            place[sample.index] = sample
        self._advance()

    def outcome(self) -> Outcome:
        """What came of it, once nothing is missing."""
        return Outcome(
            planned=self.planned,
            samples=tuple(self._prefix.values()),
            num_reused=len(self._known.intersection(self._prefix)),
            error=self._error(),
        )

    def _error(self) -> str | None:
        failed = self._wanted.intersection(self._failures)
        if not failed:
            return None
        return f"sample {min(failed)} failed: {self._failures[min(failed)].error}"

    def _advance(self) -> None:
        # One sample at a time, although several may have come at once: the question is decided by
        # the shortest row of samples that suffices, however the steps of a run happened to fall.
        while self._wanted and len(self._prefix) in self._samples:
            self._prefix[len(self._prefix)] = self._samples[len(self._prefix)]
            self._ask()

    def _ask(self) -> None:
        wanted = self._policy.wanted(self._prefix)
        self._wanted = frozenset(wanted).difference(self._prefix)
