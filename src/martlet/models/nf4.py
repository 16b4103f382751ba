"""A base in 4 bits as QLoRA holds it (NF4, doubly quantised: arXiv:2305.14314), and back.

An adapter that was trained on such a base belongs to the rounded weights. Written out again in
bf16 or fp32, they can be served and merged like any other model.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from martlet.errors import MissingExtraError, ModelError
from martlet.models.companions import copy_companions
from martlet.models.folder import ModelFolder

_LOADING_ERRORS = (ValueError, KeyError, OSError, RuntimeError, ImportError)


def load_nf4(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Loads a folder with its linear layers in NF4.

    Args:
        dtype: Precision of the products, and of what is not quantised.

    Raises:
        MissingExtraError: If bitsandbytes is not installed.
        ModelError: If transformers cannot load it.
    """
    require_bitsandbytes()
    disable_progress_bar()
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=dtype,
            local_files_only=True,
            device_map={"": device},
            quantization_config=settings,
        )
    except _LOADING_ERRORS as error:
        raise ModelError(f"{folder.path} cannot be loaded in 4 bits: {error}") from error
    _keep_differentiable(model)
    return model


def require_bitsandbytes() -> None:
    """Refuses a base in 4 bits where the package that rounds it is missing.

    Raises:
        MissingExtraError: If bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("a base in 4 bits", extra="train")


def write_as_nf4(folder: ModelFolder, out: Path, *, dtype: torch.dtype) -> None:
    """Writes a folder whose weights are those that NF4 leaves of another's.

    Tokenizer, chat template and generation config go along.

    Args:
        out: An empty folder, or one to be made.

    Raises:
        The same as `load_nf4`.
    """
    model = load_nf4(folder, dtype=dtype, device=torch.device("cpu"))
    model.dequantize(dtype)
    model.to(dtype=dtype)  # type: ignore[call-arg]  # the stubs lack the overload
    copy_companions(folder.path, out)
    model.save_pretrained(out)


def _keep_differentiable(model: PreTrainedModel) -> None:
    """Keeps one evaluation on a CPU from ending training.

    The first forward pass in evaluation mode would lay the weights out for a kernel that has no
    backward pass, for good: later gradients would be lost in silence (bitsandbytes 0.50).
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
