"""From a request for tuning to the recipe of a training run, and back to what it says."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from martlet.backends.base import ModelIdentity
from martlet.errors import ParameterError
from martlet.serve.schema.tuning import CreateTuning, Hyperparameters, MartletOptions
from martlet.serve.tuning.folder import RUN_NAME, TEMPLATE_NAME
from martlet.serve.tuning.record import ORGANIZATION
from martlet.train.config import TrainConfig, resolve_config

_DTYPE_TO_PRECISION: Mapping[str, str] = {"float32": "fp32", "bfloat16": "bf16"}
_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_BASE = 40
"""Characters of the base's name that fit into the name of an adapter, whatever the suffix."""


def recipe_of(
    body: CreateTuning,
    identity: ModelIdentity,
    *,
    files: Sequence[str],
    has_template: bool,
) -> TrainConfig:
    """What `martlet train` is to do: on the model that is served, in the precision that serves.

    Args:
        identity: Of the model.
        files: The names of the rows' file and, if there is one, of the validation rows'.
        has_template: Whether a chat template lies beside them.

    Raises:
        ParameterError: If a value is out of its range, or contradicts another.
    """
    training, *validation = files
    given: dict[str, object] = {
        "data": [training],
        "validation": validation[0] if validation else None,
        "model": _as_seen_from_anywhere(identity.model),
        "out": RUN_NAME,
        "chat_template": TEMPLATE_NAME if has_template else None,
        "precision": _DTYPE_TO_PRECISION.get(identity.dtype, "auto"),
        "seed": body.seed,
        **options_of(body.martlet),
        **_method_of(body),
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = resolve_config(given)
    if (multiplier := _hyperparameters(body).learning_rate_multiplier) is None:
        return config
    return resolve_config({**given, "learning_rate": multiplier * config.learning_rate})


def options_of(options: MartletOptions) -> dict[str, object]:
    """The options that are given."""
    return {name: value for name, value in options if value is not None}


def method_as_json(body: CreateTuning, config: TrainConfig) -> dict[str, object]:
    """The method as OpenAI's clients read it, with the values that `auto` stood for."""
    hyperparameters: dict[str, object] = {
        "n_epochs": int(config.steps.epochs),
        "batch_size": config.steps.batch_size,
        "learning_rate_multiplier": _hyperparameters(body).learning_rate_multiplier or 1.0,
    }
    if body.method.type == "dpo":
        hyperparameters["beta"] = config.tuner.beta
    return {"type": body.method.type, body.method.type: {"hyperparameters": hyperparameters}}


def model_name(base: str, suffix: str | None, short_id: str) -> str:
    """The name of a finished model, `ft:BASE:ORGANIZATION:SUFFIX:ID`.

    Raises:
        ParameterError: If the suffix holds what a model's name may not.
    """
    if suffix is not None and not _SUFFIX.fullmatch(suffix):
        raise ParameterError(
            f"suffix is made of letters, digits and . _ -, not {suffix!r}", param="suffix"
        )
    last_part = Path(base).name[:_LONGEST_BASE]
    allowed = re.sub(r"[^A-Za-z0-9._-]", "-", last_part)
    return f"ft:{allowed}:{ORGANIZATION}:{suffix or ''}:{short_id}"


def _method_of(body: CreateTuning) -> dict[str, object]:
    """The fields of a training run that a method stands for.

    Raises:
        ParameterError: If the settings of another method are given.
    """
    method = body.method
    other = "dpo" if method.type == "supervised" else "supervised"
    if getattr(method, other) is not None:
        raise ParameterError(
            f"method.{other} is given, and method.type is {method.type!r}; leave one out",
            param=f"method.{other}",
        )
    settings = _hyperparameters(body)
    fields: dict[str, object] = {
        "method": "dpo" if method.type == "dpo" else "sft",
        "epochs": settings.n_epochs,
        "batch_size": settings.batch_size,
    }
    if method.dpo is not None:
        fields["beta"] = method.dpo.hyperparameters.beta
    return fields


def _hyperparameters(body: CreateTuning) -> Hyperparameters:
    settings = body.method.dpo or body.method.supervised
    return Hyperparameters() if settings is None else settings.hyperparameters


def _as_seen_from_anywhere(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model
