"""Where weights, or keys and values, cannot be rounded: refused before anything is loaded."""

import torch

from martlet.backends.options import BackendOptions
from martlet.errors import ParameterError, UnsupportedArchitectureError
from martlet.models.folder import ModelFolder
from martlet.models.kernels import has_triton
from martlet.models.linear.packed import can_pack


def check_rounding(
    options: BackendOptions, folder: ModelFolder, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuses to round what cannot be rounded here, or would not be used.

    Raises:
        ParameterError: With what to give instead.
    """
    _check_weights(options, folder, dtype, device)
    _check_kv_dtype(options, device)


def refuse_rounding(options: BackendOptions, why_plain: UnsupportedArchitectureError) -> None:
    """Refuses all rounding for a model that only plain transformers can run.

    Raises:
        ParameterError: If any is asked for.
    """
    for name, option, what in (
        ("weights", "--weights-as", "weights"),
        ("kv_dtype", "--kv-dtype", "keys and values"),
    ):
        if getattr(options, name) != getattr(BackendOptions(), name):
            raise ParameterError(
                f"{why_plain}, so it runs on plain transformers, which does not round {what}; "
                f"leave {option} out",
                param=name,
            ) from why_plain


def _check_weights(
    options: BackendOptions, folder: ModelFolder, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuses to round weights where that cannot be done, or would not be used."""
    if options.weights == "stored":
        return
    reason = None
    if options.backend == "transformers":
        reason = "the transformers backend does not round weights; give --backend native"
    elif folder.quantization_method is not None:
        reason = f"{folder.path} is quantised already ({folder.quantization_method}); leave it out"
    elif device.type == "cpu" and not can_pack():
        reason = "weights are rounded for CPUs with bf16 instructions alone; leave it out"
    elif options.weights == "fp8" and not _multiplies_fp8(device):
        reason = "only NVIDIA GPUs from Ada and Hopper on multiply it; give int8"
    elif options.weights in ("int4", "fp8") and dtype != torch.bfloat16:
        reason = f"{options.weights} is multiplied in bf16; give --dtype bf16"
    if reason:
        raise ParameterError(f"--weights-as {options.weights}: {reason}", param="weights")


def _check_kv_dtype(options: BackendOptions, device: torch.device) -> None:
    """Refuses to round keys and values where nothing reads them so."""
    if options.kv_dtype == "model":
        return
    reason = None
    if options.backend == "transformers":
        reason = "the transformers backend does not round them; give --backend native"
    elif options.kv_dtype == "fp8" and device.type == "cpu":
        reason = "that is for NVIDIA GPUs; a CPU keeps keys and values in int8"
    elif options.kv_dtype == "int8" and device.type != "cpu":
        reason = "that is for CPUs; a GPU keeps keys and values in fp8"
    elif options.kv_dtype == "fp8" and not has_triton():
        reason = "Triton reads them, and is not installed; pip install triton, or leave it out"
    if reason:
        raise ParameterError(f"--kv-dtype {options.kv_dtype}: {reason}", param="kv_dtype")


def _multiplies_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
