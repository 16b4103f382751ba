"""A model's folder loaded by transformers, whatever architecture it holds."""

from typing import cast

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from martlet.errors import ModelError
from martlet.models.folder import ModelFolder
from martlet.models.quantized import check_quantization, is_read_here, use_stored_layers

LOADING_ERRORS = (ValueError, KeyError, OSError, RuntimeError, ImportError)
"""What transformers raises for a folder that it cannot load."""


def load_config(folder: ModelFolder, *, trust_remote_code: bool) -> transformers.PretrainedConfig:
    """Reads a folder's config with the defaults of its architecture filled in.

    Raises:
        ModelError: If the folder asks for code of its own, or the architecture is unknown.
    """
    try:
        config: transformers.PretrainedConfig = AutoConfig.from_pretrained(
            folder.path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except LOADING_ERRORS as error:
        raise ModelError(_cannot_load(folder, error)) from error
    return config


def load_module(
    folder: ModelFolder, *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> PreTrainedModel:
    """Loads a folder with transformers, for inference.

    Raises:
        ModelError: If the folder asks for code of its own, the architecture is unknown, or a weight
            is missing or has the wrong shape. (transformers would draw it at random and go on.)
    """
    transformers.utils.logging.disable_progress_bar()
    config = load_config(folder, trust_remote_code=trust_remote_code)
    if is_read_here(folder):
        check_quantization(folder)
        use_stored_layers(folder, config)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise ModelError(_cannot_load(folder, error)) from error
    module, report = cast(tuple[PreTrainedModel, dict[str, set[object]]], loaded)
    lacking = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if lacking:
        raise ModelError(
            f"{folder.path}: {len(lacking)} weights are missing or of the wrong shape, "
            f"the first is {lacking[0]}; the folder is incomplete or its config is of another model"
        )
    module.requires_grad_(False)
    module.to(device)  # type: ignore[arg-type]  # the stubs lack the overload for a device
    module.eval()
    return module


def _cannot_load(folder: ModelFolder, error: Exception) -> str:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if "trust_remote_code" in str(error):
        return (
            f"{folder.path} asks to run Python code of its own; if you trust whoever made it, "
            "say --trust-remote-code"
        )
    return f"{folder.path} cannot be loaded by transformers {transformers.__version__}: {reason}"
