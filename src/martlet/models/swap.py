"""Replaces the leaves of a loaded model that PyTorch is slow at; they compute the same."""

import torch
from torch import nn

from martlet.models.embedding import MappedEmbedding
from martlet.models.linear.int4 import Int4Linear, can_pack_int4
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.packed import PackedLinear, can_pack
from martlet.models.linear.stored import StoredInt4, StoredInt8
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
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), None)
    parents = [module for module in model.modules() if any(module.children())]
    return sum(
        _swap_leaf(parent, name, pages, dtype)
        for parent in parents
        for name in [name for name, _ in parent.named_children()]
    )


def _swap_leaf(parent: nn.Module, name: str, pages: MappedPages, dtype: torch.dtype | None) -> bool:
    leaf = parent.get_submodule(name)
    faster = _faster(leaf, pages, dtype)
    if faster is None:
        return False
    setattr(parent, name, faster)
    for parameter in leaf.parameters(recurse=False):
        pages.give_back(parameter)
    return True


def _faster(module: nn.Module, pages: MappedPages, dtype: torch.dtype | None) -> nn.Module | None:
    if isinstance(module, StoredInt8):
        return Int8Linear(module) if module.weight.device.type == "cpu" and can_pack() else None
    if isinstance(module, StoredInt4):
        return _faster_int4(module) if dtype == torch.bfloat16 else None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.bfloat16:
        return None
    if type(module) is nn.Linear:
        return PackedLinear(module) if weight.device.type == "cpu" and can_pack() else None
    if type(module) is nn.Embedding:
        return MappedEmbedding(module, pages) if pages.hold(weight) else None
    return fuse(module) if type(module).__name__.endswith("RMSNorm") else None


def _faster_int4(module: StoredInt4) -> Int4Linear | None:
    is_on_cpu = module.group_scales().device.type == "cpu"
    return Int4Linear(module) if is_on_cpu and can_pack_int4(module) else None
