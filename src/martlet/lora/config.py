"""adapter_config.json: what a PEFT adapter says about itself, and what of it cannot be served.

The rules by which names match modules are PEFT's own (`tuners_utils.check_target_module_exists`
and `utils.other.get_pattern_key` of PEFT 0.21).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from martlet.errors import AdapterError

CONFIG_NAME = "adapter_config.json"

_Number = TypeVar("_Number", int, float)
_Value = TypeVar("_Value", int, str)

_REFUSED = {
    "target_parameters": "LoRA on bare parameters instead of modules",
    "trainable_token_indices": "single trained rows of the embedding",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "use_qalora": "QALoRA",
    "megatron_config": "Megatron's parallel layers",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
    "use_bdlora": "block-diagonal LoRA",
}
"""Settings that change what an adapter computes, in ways that are not implemented here."""
_HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
        "inference_mode",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "init_lora_weights",
        "runtime_config",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "lora_bias",
        "ensure_weight_tying",
        "use_rslora",
        "use_dora",
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
    }
)
"""Settings that are honoured, that the tensors tell anyway, or that matter in training alone."""
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Ways to initialise an adapter that also change the base's weights, by their beginnings."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What decides how an adapter's tensors are read."""

    base_model: str
    """The base as it was called in training; folders move, so this only helps messages."""
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    """Ranks of modules that match a pattern, in place of `rank`."""
    alpha_pattern: Mapping[str, float]
    target_modules: str | tuple[str, ...]
    """A regular expression, or endings of module names."""
    exclude_modules: str | tuple[str, ...]
    modules_to_save: tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    """Empty if all layers are adapted."""
    layers_pattern: tuple[str, ...]
    use_rslora: bool
    use_dora: bool
    ensure_weight_tying: bool

    def rank_of(self, module: str) -> int:
        """The rank of a module's adapter."""
        return self.rank_pattern.get(_pattern_key(self.rank_pattern, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """What a module's product of matrices is multiplied by (rsLoRA: arXiv:2312.03732)."""
        alpha = self.alpha_pattern.get(_pattern_key(self.alpha_pattern, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, module: str) -> bool:
        """Whether the config names a module to be adapted."""
        if _matches(self.exclude_modules, module):
            return False
        if any(re.match(rf"(^|.*\.){saved}($|\..*)", module) for saved in self.modules_to_save):
            return False
        if not isinstance(self.target_modules, str) and module in self.target_modules:
            return True
        return _matches(self.target_modules, module) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        if not self.layers_to_transform or isinstance(self.target_modules, str):
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(\d+)\."]:
            if found := re.match(pattern, module):
                return int(found[1]) in self.layers_to_transform
        return False


def read_config(folder: Path) -> AdapterConfig:
    """Reads an adapter's config and refuses what cannot be served as it is.

    Raises:
        AdapterError: If the file is broken, or the adapter is of a kind that is not supported;
            the message names the setting.
    """
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} must hold a JSON object, not {type(content).__name__}")
    _refuse_unsupported(path, content)
    try:
        return _parse(content)
    except (TypeError, ValueError, KeyError) as error:
        raise AdapterError(f"{path} is not a LoRA config of PEFT: {error!r}") from error


def _parse(content: Mapping[str, object]) -> AdapterConfig:
    config = AdapterConfig(
        base_model=str(content.get("base_model_name_or_path") or "another model"),
        rank=_number(content["r"], int),
        alpha=_number(content["lora_alpha"], float),
        rank_pattern=_pattern(content.get("rank_pattern"), int),
        alpha_pattern=_pattern(content.get("alpha_pattern"), float),
        target_modules=_names(content.get("target_modules")),
        exclude_modules=_names(content.get("exclude_modules")),
        modules_to_save=_as_tuple(content.get("modules_to_save"), str),
        layers_to_transform=_as_tuple(content.get("layers_to_transform"), int),
        layers_pattern=_as_tuple(content.get("layers_pattern"), str),
        use_rslora=bool(content.get("use_rslora")),
        use_dora=bool(content.get("use_dora")),
        ensure_weight_tying=bool(content.get("ensure_weight_tying")),
    )
    if min(config.rank, *config.rank_pattern.values(), math.inf) < 1:
        raise ValueError("a rank must be at least 1")
    for pattern in (*config.rank_pattern, *config.alpha_pattern, *config.modules_to_save):
        _check_regex(pattern)
    for names in (config.target_modules, config.exclude_modules):
        if isinstance(names, str):
            _check_regex(names)
    return config


def _refuse_unsupported(path: Path, content: Mapping[str, object]) -> None:
    kind = content.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path}: peft_type is {kind!r}; only LORA adapters are supported")
    for name, meaning in _REFUSED.items():
        if content.get(name):
            raise AdapterError(f"{path}: {name} ({meaning}) is not supported; merge it with PEFT")
    for name, value in content.items():
        if name not in _HARMLESS and name not in _REFUSED and value:
            raise AdapterError(
                f"{path}: {name}={value!r} is a setting of a PEFT that is not known here; what it "
                "changes would be lost, so the adapter is refused: merge it with that PEFT"
            )
    init = content.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        raise AdapterError(
            f"{path}: init_lora_weights={init!r} changed the base's weights too, so on the plain "
            "base the adapter computes something else; save it again in PEFT with "
            "model.save_pretrained(folder, path_initial_model_for_weight_conversion=...), which "
            "makes a plain LoRA of it, or merge it"
        )


def _pattern_key(pattern: Mapping[str, object], module: str) -> str:
    for key in pattern:
        if re.match(rf"(.*\.)?({key})$", module):
            return key
    return module


def _matches(names: str | tuple[str, ...], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _check_regex(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _number(value: object, kind: type[_Number]) -> _Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is needed, not {value!r}")
    return kind(value)


def _pattern(value: object, kind: type[_Number]) -> dict[str, _Number]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"a mapping of patterns is needed, not {value!r}")
    return {str(key): _number(each, kind) for key, each in value.items()}


def _names(value: object) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else _as_tuple(value, str)


def _as_tuple(value: object, kind: type[_Value]) -> tuple[_Value, ...]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    for each in values:
        if not isinstance(each, kind):
            raise TypeError(f"{kind.__name__} is needed, not {each!r}")
    return tuple(values)
