"""Replaces the leaves of a loaded model that PyTorch is slow at; they compute the same."""

from functools import partial

import torch
from torch import nn

from martlet.models.linear.packed import PackedLinear, can_pack
from martlet.models.mapped_pages import MappedPages
from martlet.models.norm import fuse

MANY_ROWS = 16
"""Rows looked up at once from which on an embedding's pages are given back."""


def swap_leaves(model: nn.Module) -> int:
    """Packs the bf16 linears of a model on the CPU and fuses its RMS norms, in place.

    In fp32 nothing is replaced: that is the model as transformers computes it. One leaf at a time:
    the old weight is let go before the next one is packed.

    Returns:
        The number of modules that were replaced.
    """
    pages = MappedPages()
    parents = [module for module in model.modules() if any(module.children())]
    num_swapped = sum(
        _swap_leaf(parent, name, pages)
        for parent in parents
        for name in [name for name, _ in parent.named_children()]
    )
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(partial(_give_back_rows, pages))
    return num_swapped


def _give_back_rows(
    pages: MappedPages, embedding: nn.Embedding, args: tuple[torch.Tensor], _: torch.Tensor
) -> None:
    """After a prompt, lets go of an embedding's rows; a few rows are not worth the call."""
    if args[0].numel() >= MANY_ROWS:
        pages.give_back(embedding.weight)


def _swap_leaf(parent: nn.Module, name: str, pages: MappedPages) -> bool:
    leaf = parent.get_submodule(name)
    faster = _faster(leaf)
    if faster is None:
        return False
    setattr(parent, name, faster)
    pages.give_back(leaf.get_parameter("weight"))
    return True


def _faster(module: nn.Module) -> nn.Module | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.bfloat16:
        return None
    if type(module) is nn.Linear:
        return PackedLinear(module) if weight.device.type == "cpu" and can_pack() else None
    return fuse(module) if type(module).__name__.endswith("RMSNorm") else None
