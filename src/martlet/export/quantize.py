"""A model's linear layers rounded to 8 or 4 bits, in the format compressed-tensors.

vLLM and transformers load it. The LM head and the embedding stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from martlet.errors import MissingExtraError, ModelError
from martlet.export.gptq import input_products, round_by_gptq
from martlet.export.skeleton import linear_tensors
from martlet.export.weights import check_out, rewrite, write_json
from martlet.models.companions import copy_companions
from martlet.models.folder import ModelFolder
from martlet.models.linear.rounding import round_channels, round_groups
from martlet.models.pretrained import load_module

Bits = Literal[8, 4]
GROUP_SIZES = (128, 64, 32)
"""Of inputs that share a scale with four bits: the first that divides a model's widths."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """A model that can be quantised, and how."""

    source: ModelFolder
    bits: Bits
    linears: Mapping[str, str]
    """Modules by the names of their weights in the files."""
    group_size: int
    """0 for 8 bits."""


def plan_quantization(source: ModelFolder, *, bits: Bits, out: Path) -> Quantization:
    """Checks everything that can be checked before anything is computed.

    Raises:
        ModelError: If the model is quantised already, has experts or no linear layers, or their
            widths divide into no groups.
        ParameterError: If `out` holds something.
        ResourceError: If the disk has too little room.
        MissingExtraError: If compressed-tensors is not installed.
    """
    if source.quantization_method is not None:
        raise ModelError(
            f"{source.path} is quantised already ({source.quantization_method}); give the model "
            "that it was made from"
        )
    try:
        import compressed_tensors  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("quantising a model", extra="export") from error
    linears = linear_tensors(source)
    experts = [name for name in source.tensors if ".experts." in name and name not in linears]
    if experts:
        raise ModelError(
            f"{source.path} has experts ({experts[0]} and {len(experts) - 1:,} more tensors), "
            "which cannot be quantised yet; serve it as it is"
        )
    if not linears:
        raise ModelError(f"{source.path} has no linear layers of its own besides the LM head")
    check_out(out, needed_bytes=source.weights_bytes)
    size = 0 if bits == 8 else _group_size(source, linears)
    return Quantization(source=source, bits=bits, linears=linears, group_size=size)


def calibrate(
    plan: Quantization, rows: Sequence[tuple[int, ...]], report: Callable[[int, int], None]
) -> Mapping[str, Tensor]:
    """Runs the model over rows for GPTQ; see `input_products`. It is in memory as a whole."""
    model = load_module(
        plan.source,
        dtype=torch.float32,
        device=torch.device("cpu"),
        trust_remote_code=False,
    )
    return input_products(model, plan.linears.values(), rows, report)


@torch.inference_mode()
def write_quantized(
    plan: Quantization,
    draft: Path,
    report: Callable[[int, int], None],
    *,
    products: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the quantised model with everything that belongs to it.

    Args:
        plan: From `plan_quantization`.
        draft: An empty folder.
        report: Called with the tensors that are done and all of them.
        products: From `calibrate`; None rounds to the nearest.
    """

    def change(name: str, own: Tensor) -> Mapping[str, Tensor]:
        module = plan.linears.get(name)
        if module is None:
            return {name: own}
        seen = None if products is None else products[module]
        return _rounded(name.removesuffix(".weight"), own, plan, seen)

    rewrite(plan.source, draft, change, report)
    copy_companions(plan.source.path, draft)
    config = {**plan.source.config, "quantization_config": _settings(plan)}
    write_json(draft / "config.json", config)


def _rounded(
    name: str, own: Tensor, plan: Quantization, products: Tensor | None
) -> dict[str, Tensor]:
    """The tensors of one layer, as compressed-tensors names them."""
    if plan.bits == 8:
        values, scales = round_channels(own)
        return {f"{name}.weight": values, f"{name}.weight_scale": scales}
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    num_groups = own.shape[1] // plan.group_size
    if products is None:
        values, scales = round_groups(own, num_groups)
    else:
        values, scales = round_by_gptq(own, products, num_groups)
    return {
        f"{name}.weight_packed": pack_to_int32(values, 4),
        f"{name}.weight_scale": scales.to(own.dtype),
        f"{name}.weight_shape": torch.tensor(own.shape),
    }


def _settings(plan: Quantization) -> dict[str, object]:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig
    from compressed_tensors.quantization.quant_scheme import QuantizationScheme

    inputs = None
    if plan.bits == 8:
        weights = QuantizationArgs(num_bits=8, strategy="channel", symmetric=True)
        inputs = QuantizationArgs(num_bits=8, strategy="token", symmetric=True, dynamic=True)
    else:
        weights = QuantizationArgs(
            num_bits=4, strategy="group", group_size=plan.group_size, symmetric=True
        )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        format="int-quantized" if plan.bits == 8 else "pack-quantized",
        quantization_status="compressed",
        ignore=["lm_head"],
    )
    settings: dict[str, object] = config.model_dump(mode="json", exclude_none=True)
    return {**settings, "quant_method": "compressed-tensors"}


def _group_size(source: ModelFolder, linears: Mapping[str, str]) -> int:
    widths = {source.tensors[name].shape[1] for name in linears}
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    odd = next(width for width in sorted(widths) if width % GROUP_SIZES[-1])
    raise ModelError(
        f"{source.path} has layers with {odd} inputs, which divide into no groups of "
        f"{', '.join(map(str, GROUP_SIZES))}; use --bits 8"
    )
