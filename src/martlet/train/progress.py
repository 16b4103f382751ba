"""How far a training run is: reports for whoever watches, and a file of losses."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report."""

    step: int
    num_steps: int
    epoch: float
    loss: float | None
    """Mean loss of the steps since the last report; None where there is none."""
    validation_loss: float | None
    """If the validation rows were just looked at."""
    num_tokens: int
    """Computed since this process began, padding left out."""
    seconds: float
    """Since then."""
    num_steps_here: int
    """Steps done since then."""

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None before the first step has ended."""
        if self.num_steps_here == 0:
            return None
        return self.seconds / self.num_steps_here * (self.num_steps - self.step)


Watch = Callable[[Progress], None]


class Reporter(TrainerCallback):
    """Turns what the trainer says into reports.

    Args:
        watch: Called with each of them.
        metrics: A JSON object a line is added here.
        should_stop: Asked after every step; a stop keeps a checkpoint.
    """

    def __init__(self, watch: Watch, *, metrics: Path, should_stop: Callable[[], bool]) -> None:
        self._watch = watch
        self._metrics = metrics
        self._should_stop = should_stop
        self._started: float | None = None
        self._first_step = 0
        self.num_tokens = 0
        """Counted by the trainer as it computes."""
        self.was_stopped = False

    @property
    def seconds(self) -> float:
        """Since training began in this process."""
        return 0.0 if self._started is None else monotonic() - self._started

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started, self._first_step = monotonic(), state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._should_stop():
            self.was_stopped = True
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        progress = Progress(
            step=state.global_step,
            num_steps=state.max_steps,
            epoch=state.epoch or 0.0,
            loss=logs.get("loss"),
            validation_loss=logs.get("eval_loss"),
            num_tokens=self.num_tokens,
            seconds=self.seconds,
            num_steps_here=state.global_step - self._first_step,
        )
        line = {name: value for name, value in asdict(progress).items() if value is not None}
        line |= {name: logs[name] for name in ("learning_rate", "grad_norm") if name in logs}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._watch(progress)
