"""Replaces the leaves of a loaded model that PyTorch is slow at; they compute the same."""

import torch
from torch import nn

from martlet.models.embedding import MappedEmbedding
from martlet.models.linear.packed import PackedLinear, can_pack
from martlet.models.mapped_pages import MappedPages
from martlet.models.norm import fuse


def swap_leaves(model: nn.Module) -> int:
    """Packs the bf16 linears of a model on the CPU, fuses its RMS norms, unmaps its embedding.

    In fp32 nothing is replaced: that is the model as transformers computes it. One leaf at a time:
    the old weight is let go before the next one is packed.

    Returns:
        The number of modules that were replaced.
    """
    pages = MappedPages()
    parents = [module for module in model.modules() if any(module.children())]
    return sum(
        _swap_leaf(parent, name, pages)
        for parent in parents
        for name in [name for name, _ in parent.named_children()]
    )


def _swap_leaf(parent: nn.Module, name: str, pages: MappedPages) -> bool:
    leaf = parent.get_submodule(name)
    faster = _faster(leaf, pages)
    if faster is None:
        return False
    setattr(parent, name, faster)
    pages.give_back(leaf.get_parameter("weight"))
    return True


def _faster(module: nn.Module, pages: MappedPages) -> nn.Module | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.bfloat16:
        return None
    if type(module) is nn.Linear:
        return PackedLinear(module) if weight.device.type == "cpu" and can_pack() else None
    if type(module) is nn.Embedding:
        return MappedEmbedding(module, pages) if pages.hold(weight) else None
    return fuse(module) if type(module).__name__.endswith("RMSNorm") else None
