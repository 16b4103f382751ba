"""The body of `POST /v1/fine_tuning/jobs`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from martlet.serve.schema.base import RequestModel
from martlet.serve.schema.batches import Metadata


def _without_auto(value: object) -> object:
    return None if value == "auto" else value


_OrAuto = BeforeValidator(_without_auto)
"""`auto` is the same as no field."""


class Hyperparameters(RequestModel):
    """How long and how fast to learn."""

    n_epochs: Annotated[int | None, Field(ge=1, le=50), _OrAuto] = None
    batch_size: Annotated[int | None, Field(ge=1, le=256), _OrAuto] = None
    learning_rate_multiplier: Annotated[float | None, Field(gt=0), _OrAuto] = None
    """Of the rate that `martlet train` takes unless told."""


class PreferenceHyperparameters(Hyperparameters):
    """The same, and how strongly the base holds the model back."""

    beta: Annotated[float | None, Field(gt=0, le=2), _OrAuto] = None


class Supervised(RequestModel):
    """Learns replies."""

    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)


class Preferences(RequestModel):
    """Learns to prefer one reply to another."""

    hyperparameters: PreferenceHyperparameters = Field(default_factory=PreferenceHyperparameters)


class Method(RequestModel):
    """What is learned from the rows."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "reinforcement": "methods are supervised and dpo",
    }

    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Preferences | None = None


class MartletOptions(RequestModel):
    """Options of `martlet train` that OpenAI's API has no words for."""

    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    targets: list[str] | None = None
    dora: bool | None = None
    rslora: bool | None = None
    accumulation: int | None = None
    max_length: int | None = None
    too_long: Literal["error", "skip", "truncate-left"] | None = None
    checkpointing: bool | None = None
    save_every: int | None = None
    evaluate_every: int | None = None
    patience: int | None = None


class CreateTuning(RequestModel):
    """Rows to learn from, and how."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "hyperparameters": "give them in method.supervised.hyperparameters, or method.dpo",
        "integrations": "losses are reported in the job's events alone",
    }

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    method: Method = Field(default_factory=lambda: Method(type="supervised"))
    metadata: Metadata | None = None
    martlet: MartletOptions = Field(default_factory=MartletOptions)
