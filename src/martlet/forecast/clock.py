"""Notes what the steps of a trial take, and ends it when its time is over."""

from collections.abc import Callable
from itertools import pairwise
from time import monotonic
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from martlet.errors import Interrupted
from martlet.forecast.costs import Load, StepCosts
from martlet.forecast.peak import Peak

_FEWEST_STEPS = 3
"""The first warms up; two more tell what one costs."""


class TrialClock(TrainerCallback):
    """Times the steps of a trainer.

    Args:
        seconds: After which the trial ends, with a checkpoint.
        show: Called after each step with the seconds that have passed.
        asked_to_stop: Asked after each step.
    """

    def __init__(
        self, seconds: float, show: Callable[[float], None], asked_to_stop: Callable[[], bool]
    ) -> None:
        self.num_tokens: Callable[[], int] = lambda: 0
        """Tells how many tokens have been computed; the trainer's reporter knows."""
        self.ends: list[tuple[float, int]] = []
        """When each step ended, and how many tokens had been computed by then."""
        self.seconds_of_checkpoint = 0.0
        """Of the last."""
        self.grown_bytes = 0
        """What the process grew by in the second half of a trial that was not the whole run."""
        self._seconds = seconds
        self._show = show
        self._asked_to_stop = asked_to_stop
        self._started = monotonic()
        self._halfway: Peak | None = None
        self._aside = 0.0
        """Seconds that went into checkpoints, which are counted apart."""

    @property
    def costs(self) -> StepCosts:
        """What a step costs, by its tokens; the first counts only if there is no other."""
        ends = self.ends if len(self.ends) > 1 else [(self._started, 0), *self.ends]
        pairs = list(pairwise(ends))
        return StepCosts.fit(
            [Load(steps=1, tokens=after[1] - before[1]) for before, after in pairs],
            [after[0] - before[0] for before, after in pairs],
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._asked_to_stop():
            raise Interrupted("stopped in the trial; nothing of it is kept")
        self.ends.append((monotonic() - self._aside, self.num_tokens()))
        passed = monotonic() - self._started
        self._show(passed)
        if self._halfway is None and passed > self._seconds / 2:
            self._halfway = Peak.read()
        if passed > self._seconds and len(self.ends) >= _FEWEST_STEPS:
            control.should_save = control.should_training_stop = True
            if self._halfway is not None:
                self.grown_bytes = Peak.read().process_bytes - self._halfway.process_bytes

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.seconds_of_checkpoint = monotonic() - self._aside - self.ends[-1][0]
        self._aside += self.seconds_of_checkpoint
