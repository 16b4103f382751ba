"""Quantised checkpoints: which layers are stored how, and what they are loaded into.

Read are compressed-tensors (int8 and fp8 W8A8, four-bit W4A16), and GPTQ and AWQ with four bits.
The files' headers tell the layers; the config is only asked what they cannot tell. Neither package
is needed.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from martlet.errors import ModelError
from martlet.models.folder import ModelFolder
from martlet.models.linear.fp8 import StoredFp8
from martlet.models.linear.stored import Awq, Gptq, PackQuantized, StoredInt8
from martlet.models.shard import TensorEntry

READ = ("compressed-tensors", "gptq", "awq")
"""Methods of quantisation that are read here; the others are left to transformers."""
_ALLOWED = (
    "int8 and fp8 (W8A8, per channel and dynamic per token) and int4 (W4A16) of "
    "compressed-tensors, 4-bit GPTQ, and 4-bit AWQ of the version gemm"
)
_METHOD = "martlet-stored"
_MARKS = {".weight_packed": "int4", ".qweight": "words", ".weight_scale": "bytes"}


def is_read_here(folder: ModelFolder) -> bool:
    """Whether a folder is quantised in a way that the engine reads by itself."""
    return folder.quantization_method in READ


def check_quantization(folder: ModelFolder) -> None:
    """Refuses a quantised folder whose numbers would be misread.

    Raises:
        ModelError: If the config describes another form of quantisation.
    """
    settings = cast(Mapping[str, object], folder.config["quantization_config"])
    match folder.quantization_method:
        case "gptq":
            reason = _gptq_reason(settings)
        case "awq":
            reason = _awq_reason(settings)
        case _:
            reason = _compressed_reason(settings)
    if reason:
        raise ModelError(f"{folder.path} is quantised with {reason}; read are {_ALLOWED}")


def use_stored_layers(folder: ModelFolder, config: PretrainedConfig) -> None:
    """Tells transformers to load a folder's quantised layers as they are stored.

    Args:
        folder: The checkpoint.
        config: Its config, whose `quantization_config` is replaced.
    """
    config.quantization_config = {"quant_method": _METHOD, "folder": folder}


@register_quantization_config(_METHOD)
class _StoredConfig(QuantizationConfigMixin):
    """Hands the folder through transformers to the quantiser."""

    def __init__(self, *, folder: ModelFolder, **_: object) -> None:
        self.quant_method = _METHOD  # type: ignore[assignment]  # a name that was registered
        self.folder = folder


@register_quantizer(_METHOD)
class _StoredQuantizer(HfQuantizer):
    """Puts the stored layers into the empty model, before its weights are read."""

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, **_: object
    ) -> PreTrainedModel:
        settings = cast(_StoredConfig, self.quantization_config)
        for name, layer in _stored_layers(settings.folder, model):
            model.set_submodule(name, layer)
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def _stored_layers(folder: ModelFolder, model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    modules = dict(model.named_modules())
    for tensor in folder.tensors:
        for mark, kind in _MARKS.items():
            name = tensor.removesuffix(mark)
            if name == tensor or (kind == "bytes" and f"{name}.weight_packed" in folder.tensors):
                continue
            linear = modules.get(name)
            if not isinstance(linear, nn.Linear):
                raise ModelError(
                    f"{folder.path}: {name} is quantised, and in {type(model).__name__} that is no "
                    "linear layer of its own; give the model that it was made from"
                )
            yield name, _stored_layer(kind, linear, name, folder)


def _stored_layer(kind: str, linear: nn.Linear, name: str, folder: ModelFolder) -> nn.Module:
    tensors: Mapping[str, TensorEntry] = folder.tensors
    settings = cast(Mapping[str, object], folder.config["quantization_config"])
    if kind == "bytes":
        is_float = tensors[f"{name}.weight"].dtype == "F8_E4M3"
        return StoredFp8(linear) if is_float else StoredInt8(linear)
    if kind == "words":
        num_groups = tensors[f"{name}.scales"].shape[0]
        if folder.quantization_method == "awq":
            return Awq(linear, num_groups=num_groups)
        is_second = settings.get("checkpoint_format") == "gptq_v2"
        return Gptq(linear, num_groups=num_groups, zero_offset=0 if is_second else 1)
    return PackQuantized(
        linear,
        num_groups=tensors[f"{name}.weight_scale"].shape[1],
        has_zeros=f"{name}.weight_zero_point" in tensors,
        has_group_index=f"{name}.weight_g_idx" in tensors,
    )


def _gptq_reason(settings: Mapping[str, object]) -> str | None:
    if settings.get("bits") != 4:
        return f"GPTQ of {settings.get('bits')} bits"
    form = settings.get("checkpoint_format", "gptq")
    return None if form in ("gptq", "gptq_v2") else f"GPTQ in the format {form!r}"


def _awq_reason(settings: Mapping[str, object]) -> str | None:
    bits = settings.get("bits", settings.get("w_bit"))
    if bits != 4:
        return f"AWQ of {bits} bits"
    version = str(settings.get("version", "gemm")).lower()
    return None if version == "gemm" else f"AWQ of the version {version!r}"


def _compressed_reason(settings: Mapping[str, object]) -> str | None:
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights, inputs = group.get("weights") or {}, group.get("input_activations")
        kind = (weights.get("type"), weights.get("num_bits"), weights.get("strategy"))
        is_byte = kind[0] in ("int", "float") and kind[1:] == (8, "channel")
        scales_tokens = inputs and inputs.get("dynamic") and inputs.get("strategy") == "token"
        if is_byte and weights.get("symmetric") and scales_tokens:
            continue
        if kind[:2] == ("int", 4) and kind[2] in ("group", "channel") and not inputs:
            continue
        return f"compressed-tensors {kind}, activations {inputs and inputs.get('num_bits')}"
    return None if groups else "compressed-tensors that names no groups"
