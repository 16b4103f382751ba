"""What a training run is told: the same names on the command line and in a YAML file.

Each field's annotation carries its explanation, which is the help of the command line. Nothing
heavy is imported here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from martlet.errors import NotFoundError, ParameterError

Method = Literal["sft", "dpo"]
TooLong = Literal["error", "skip", "truncate-left"]
Schedule = Literal["cosine", "linear", "constant"]
Reporter = Literal["tensorboard", "wandb"]
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows, and how they become prompts."""

    validation: Annotated[
        str | None,
        "A file of validation rows, or a share of the training rows such as 0.05.",
    ] = None
    max_length: Annotated[
        int | None, "Tokens of a row, at most; unless given, what the model allows, up to 4,096."
    ] = None
    too_long: Annotated[
        TooLong,
        "What becomes of a longer row; truncate-left drops its oldest turns.",
    ] = "error"
    map: Annotated[
        tuple[str, ...], "Which column is what: prompt=dialogue, reply=summary. Repeatable."
    ] = ()
    prompt_template: Annotated[
        Path | None, "A Jinja file that words the prompt from a row's columns."
    ] = None
    allow_repeated_options: Annotated[
        bool, "Keep options that say the same, each under its letter, instead of refusing the row."
    ] = False


@dataclass(frozen=True, kw_only=True)
class TunerConfig:
    """Which weights are trained."""

    method: Annotated[Method, "sft learns replies; dpo learns to prefer one reply to another."] = (
        "sft"
    )
    full: Annotated[bool, "Train all weights instead of a LoRA adapter."] = False
    qlora: Annotated[
        bool, "Hold the base in 4 bits (NF4, doubly quantised) while the adapter is trained."
    ] = False
    rank: Annotated[int, "Rank of the adapter."] = 16
    alpha: Annotated[float | None, "Scale of the adapter; unless given, twice the rank."] = None
    dropout: Annotated[float, "Share of the adapter's inputs that are dropped in training."] = 0.0
    targets: Annotated[
        tuple[str, ...],
        "Modules to adapt, by the ends of their names; unless given, all linear layers. "
        "Repeatable.",
    ] = ()
    dora: Annotated[bool, "Train magnitudes apart from directions (DoRA)."] = False
    rslora: Annotated[bool, "Scale by the square root of the rank (rsLoRA)."] = False
    pissa: Annotated[bool, "Start from the base's largest singular values (PiSSA)."] = False
    beta: Annotated[float, "With --method dpo: how strongly the base holds the model back."] = 0.1


@dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """How the weights move."""

    epochs: Annotated[float, "Passes over the training rows."] = 3.0
    max_steps: Annotated[int | None, "Stop after so many steps, whatever the epochs."] = None
    batch_size: Annotated[
        int, "Rows computed at once; they are packed without padding, and do not see each other."
    ] = 8
    accumulation: Annotated[int, "Batches a step."] = 1
    learning_rate: Annotated[
        float | None,
        "Unless given: 2e-4 for an adapter, 1e-5 for all weights, 2e-5 for dpo.",
    ] = None
    schedule: Annotated[Schedule, "How the learning rate falls after the warm-up."] = "cosine"
    warmup: Annotated[float, "Share of the steps in which the learning rate rises."] = 0.03
    weight_decay: Annotated[float, "Pull of the weights towards zero (AdamW)."] = 0.0
    max_gradient_norm: Annotated[float, "Longer gradients are shortened to this."] = 1.0
    checkpointing: Annotated[
        bool, "Compute activations again in the backward pass: slower, and far less memory."
    ] = False
    precision: Annotated[
        Precision, "Of the products; auto is bf16 where the machine is fast at it."
    ] = "auto"
    seed: Annotated[int, "Of the first weights, the order of rows, and dropout."] = 0


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    """What is measured and kept on the way."""

    save_every: Annotated[int, "Steps between two checkpoints, from which a run goes on."] = 100
    evaluate_every: Annotated[
        int | None, "Steps between two looks at the validation rows; unless given, an epoch."
    ] = None
    patience: Annotated[
        int | None,
        "Stop after so many looks without a lower validation loss, and keep the best weights.",
    ] = None
    report: Annotated[
        tuple[Reporter, ...], "Also report to tensorboard or wandb; unless given, to nobody."
    ] = ()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    data: Annotated[tuple[str, ...], "Files of rows."]
    model: Annotated[str, "The base."]
    out: Annotated[Path, "The folder of the run, which becomes the adapter's."]
    chat_template: Annotated[Path | None, "A Jinja file in place of the model's template."] = None
    rows: DataConfig = field(default_factory=DataConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    steps: StepsConfig = field(default_factory=StepsConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)

    @property
    def learning_rate(self) -> float:
        """The highest one."""
        if self.steps.learning_rate is not None:
            return self.steps.learning_rate
        if self.tuner.method == "dpo":
            return 2e-5
        return 1e-5 if self.tuner.full else 2e-4

    @property
    def alpha(self) -> float:
        """Scale of the adapter before it is divided by the rank."""
        return 2.0 * self.tuner.rank if self.tuner.alpha is None else self.tuner.alpha


_SECTIONS: Mapping[str, type] = {
    "rows": DataConfig,
    "tuner": TunerConfig,
    "steps": StepsConfig,
    "keep": KeepConfig,
}
_TOP = ("data", "model", "out", "chat_template")


def resolve_config(given: Mapping[str, object], *, file: Path | None = None) -> TrainConfig:
    """Puts a config together: what is given goes before the file, that before the defaults.

    Args:
        given: Fields by name, as the command line has them.
        file: A YAML file with fields by name, written with `-` or `_`.

    Raises:
        NotFoundError: If there is no such file.
        ParameterError: If a field is unknown, of the wrong type, out of its range, or contradicts
            another; the message names the nearest field, or what is allowed.
    """
    values = {**(_read_yaml(file) if file is not None else {}), **given}
    for name in ("data", "model", "out"):
        if not values.get(name):
            raise ParameterError(_MISSING[name], param=name)
    values["data"] = (values["data"],) if isinstance(values["data"], str) else values["data"]
    top = {name: values.pop(name) for name in _TOP if name in values}
    sections = {
        section: _section(kind, {name: values.pop(name) for name in _names(kind) if name in values})
        for section, kind in _SECTIONS.items()
    }
    config = TrainConfig(**_checked(TrainConfig, top), **sections)
    _check_ranges(config)
    _check_together(config.tuner)
    return config


def to_fields(config: TrainConfig) -> dict[str, object]:
    """The config as a YAML file has it: flat, every field, defaults included."""
    flat: dict[str, object] = {name: getattr(config, name) for name in _TOP}
    for section in _SECTIONS:
        part = getattr(config, section)
        flat |= {each.name: getattr(part, each.name) for each in fields(part)}
    return {name: _plain(value) for name, value in flat.items()}


_MISSING = {
    "data": "no data: name a file of rows, such as martlet train rows.jsonl --model ./base",
    "model": "no model: name the base with --model, a folder or a Hugging Face id",
    "out": "no folder for the run: name one with --out, such as --out runs/judge",
}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _read_yaml(file: Path) -> dict[str, object]:
    import yaml

    if not file.is_file():
        raise NotFoundError(f"no such config: {file}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{file} must hold fields and values, such as 'rank: 16'")
    values = {str(name).replace("-", "_"): value for name, value in content.items()}
    known = [*_TOP, *(name for kind in _SECTIONS.values() for name in _names(kind))]
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"fields are: {', '.join(known)}"
            raise ParameterError(f"{file}: unknown field {name!r}; {hint}", param=name)
    return {name: value for name, value in values.items() if value is not None}


def _names(kind: type) -> list[str]:
    return [each.name for each in fields(kind)]


def _section(kind: type, values: Mapping[str, object]) -> Any:
    return kind(**_checked(kind, values))


def _checked(kind: type, values: Mapping[str, object]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: _coerced(name, value, hints[name]) for name, value in values.items()}


def _coerced(name: str, value: object, kind: Any) -> object:
    """A value from YAML or the command line as its field's type."""
    options = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Literal:
        if value in options:
            return value
        raise ParameterError(f"{name} must be one of {', '.join(options)}, not {value!r}")
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerced(name, item, options[0]) for item in items)
    if len(options) == 1:  # X | None
        return _coerced(name, value, options[0])
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    # YAML reads 2e-4 as a text: its numbers need a point.
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ParameterError(f"{name} must be {_KINDS[kind]}, not {value!r}", param=name)


_KINDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Path: "a path",
}

_LOWEST = {
    "max_length": 2,
    "rank": 1,
    "epochs": 0.0,
    "max_steps": 1,
    "batch_size": 1,
    "accumulation": 1,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "beta": 0.0,
    "save_every": 1,
    "evaluate_every": 1,
    "patience": 1,
    "seed": 0,
}
_OPEN = {"learning_rate", "alpha", "max_gradient_norm", "epochs", "beta"}
"""Must be above zero, not at it."""
_BELOW_ONE = {"dropout", "warmup"}


def _check_ranges(config: TrainConfig) -> None:
    for name, value in to_fields(config).items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if not math.isfinite(value) or value < _LOWEST.get(name, -math.inf):
            raise ParameterError(
                f"{name}={value:g} is out of range: at least {_LOWEST.get(name, 0):g}", param=name
            )
        if name in _OPEN and value <= 0:
            raise ParameterError(f"{name}={value:g} is out of range: above 0", param=name)
        if name in _BELOW_ONE and value >= 1:
            raise ParameterError(f"{name}={value:g} is out of range: below 1", param=name)


def _check_together(tuner: TunerConfig) -> None:
    if tuner.full and tuner.qlora:
        raise ParameterError("--full trains all weights and --qlora an adapter; give one of them")
    adapter_only = [name for name in ("dora", "rslora", "pissa") if getattr(tuner, name)]
    if tuner.full and adapter_only:
        raise ParameterError(f"--{adapter_only[0]} is for an adapter; leave it or --full out")
    if tuner.qlora and tuner.pissa:
        raise ParameterError("--pissa changes the base's weights, which --qlora holds in 4 bits")
