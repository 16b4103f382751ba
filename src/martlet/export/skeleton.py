"""A model without weights: its modules by name, to check names and shapes against."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from martlet.errors import ModelError
from martlet.models.folder import ModelFolder
from martlet.models.pretrained import load_config


def skeleton(folder: ModelFolder) -> PreTrainedModel:
    """Builds a folder's model on PyTorch's meta device, which takes no memory.

    Raises:
        ModelError: If the architecture is unknown.
    """
    config = load_config(folder, trust_remote_code=False)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder.path} cannot be built by transformers: {error}") from error
    return model


def tensor_name(folder: ModelFolder, model: PreTrainedModel, module: str, part: str) -> str | None:
    """What a module's tensor is called in the folder's files; None if it has none of its own."""
    name = f"{module}.{part}"
    short = name.removeprefix(f"{model.base_model_prefix}.")
    return next((each for each in (name, short) if each in folder.tensors), None)


def linear_tensors(folder: ModelFolder) -> dict[str, str]:
    """The weights of a model's linear layers, without the LM head.

    Returns:
        Names of modules by the names of their tensors in the files.
    """
    model = skeleton(folder)
    head = model.get_output_embeddings()
    linears = {
        module: tensor_name(folder, model, module, "weight")
        for module, leaf in model.named_modules()
        if isinstance(leaf, nn.Linear) and leaf is not head
    }
    return {name: module for module, name in linears.items() if name is not None}
