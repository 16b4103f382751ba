"""What the train tab looks like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from martlet.train.config import StepsConfig, TunerConfig
from martlet.ui.client import Json
from martlet.ui.lead import add_lead
from martlet.ui.site import Words

_FILE_TYPES = [".jsonl", ".json", ".csv", ".parquet"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How somebody wants to train; what is None is left to the server."""

    suffix: str
    method: str
    epochs: int | None
    batch_size: int | None
    rate_multiplier: float | None
    rank: int | None

    def body(self) -> Json:
        """The part of a job that says how."""
        settings = {
            "n_epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.rate_multiplier,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        method = {"type": self.method, self.method: {"hyperparameters": given}}
        return {
            "method": method,
            **({"suffix": self.suffix.strip()} if self.suffix.strip() else {}),
            **({"martlet": {"rank": self.rank}} if self.rank is not None else {}),
        }


class TrainLayout:
    """The parts of the tab: the rows and what becomes of them on the left, how on the right.

    Args:
        words: Of the page.
    """

    def __init__(self, words: Words) -> None:
        add_lead(words, "train")
        self.missing = gr.Markdown(visible=False, elem_id="train-missing")
        with gr.Row(elem_classes="sides", visible=False) as self.sides:
            with gr.Column(scale=2, min_width=320):
                self._add_rows(words)
                self._add_job(words)
            with gr.Column(scale=1, min_width=280):
                self._add_wishes(words)
                self.jobs = gr.Radio(
                    [], label=words["train_jobs"], elem_classes="list", elem_id="train-jobs"
                )

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        shown = [self.missing, self.sides, self.findings, self.start, self.cancel]
        return [*shown, self.progress, self.talk, self.method, self.jobs]

    @property
    def wishes(self) -> list[Any]:
        """What an event takes as inputs, for `given` to read."""
        sizes = [self._epochs, self._batch_size, self._rate_multiplier, self._rank]
        return [self._suffix, self.method, *sizes]

    @staticmethod
    def given(values: Sequence[Any]) -> Wishes:
        """What the controls say.

        Args:
            values: Of `wishes`.
        """
        suffix, method, epochs, batch_size, rate_multiplier, rank = values
        return Wishes(
            suffix=suffix,
            method=method,
            epochs=epochs,
            batch_size=batch_size,
            rate_multiplier=rate_multiplier,
            rank=rank,
        )

    def _add_rows(self, words: Words) -> None:
        with gr.Row():
            self.training = gr.File(
                label=words["train_rows"],
                file_types=_FILE_TYPES,
                height=140,
                min_width=240,
                elem_id="train-rows",
            )
            self.validation = gr.File(
                label=words["train_validation"],
                file_types=_FILE_TYPES,
                height=140,
                min_width=240,
                elem_id="train-validation",
            )
        gr.Markdown(words["train_shapes"], elem_classes="hint")
        self.findings = gr.HTML(padding=False, elem_id="findings", elem_classes="told")

    def _add_job(self, words: Words) -> None:
        with gr.Row(elem_classes="keep"):
            self.start = gr.Button(
                words["train_start"], variant="primary", interactive=False, elem_id="train-start"
            )
            self.cancel = gr.Button(
                words["train_cancel"], interactive=False, elem_id="train-cancel"
            )
        self.progress = gr.HTML(padding=False, elem_id="train-progress", elem_classes="told")
        self.talk = gr.Button(
            words["train_talk"], variant="primary", visible=False, elem_id="train-talk"
        )

    def _add_wishes(self, words: Words) -> None:
        self._suffix = gr.Textbox(
            label=words["suffix"],
            info=words["suffix_info"],
            max_lines=1,
            max_length=64,
            elem_id="suffix",
        )
        self.method = gr.Dropdown(
            [(words[f"method_{name}"], name) for name in ("supervised", "dpo")],
            value="supervised",
            label=words["method"],
        )
        steps, tuner = StepsConfig(), TunerConfig()
        with gr.Row():
            self._epochs = _number(words, "epochs", int(steps.epochs))
            self._batch_size = _number(words, "batch_size", steps.batch_size)
        with gr.Row():
            self._rate_multiplier = _number(words, "rate_multiplier", 1, precision=None)
            self._rank = _number(words, "rank", tuner.rank)


def _number(words: Words, name: str, value: int, *, precision: int | None = 0) -> gr.Number:
    """A number with what it means; whole unless the precision is None."""
    return gr.Number(
        value,
        label=words[name],
        info=words[f"{name}_info"],
        precision=precision,
        min_width=120,
        elem_id=name.replace("_", "-"),
    )
