"""Replaces the leaves of a loaded model that PyTorch is slow at; they compute the same."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from martlet.models.decoder.rotation import Rotation, fuse_rotation
from martlet.models.embedding import read_from_file
from martlet.models.gated_mlp import fuse_mlp
from martlet.models.linear.fastest import (
    fastest_bf16,
    fastest_fp8,
    fastest_int4,
    fastest_int8,
    steady_bf16,
)
from martlet.models.linear.fp8 import StoredFp8
from martlet.models.linear.joined import join
from martlet.models.linear.rounded import round_linear
from martlet.models.linear.stored import StoredInt4, StoredInt8
from martlet.models.mapped_pages import MappedPages
from martlet.models.norm import fuse
from martlet.models.weights import KEPT_FROM_INT8, Weights
from martlet.models.weights_cache import WeightsCache

_ATTENTION, _JOINED = ("q_proj", "k_proj", "v_proj"), "qkv_proj"


def swap_leaves(
    model: nn.Module, weights: Weights = "stored", kept: WeightsCache | None = None
) -> int:
    """Packs the bf16 linears of a model on the CPU, fuses its RMS norms, unmaps its embedding.

    In fp32 nothing is replaced: that is the model as transformers computes it. One leaf at a time:
    the old weight is let go before the next one is packed.

    Args:
        model: Freshly loaded.
        weights: Whether its linear layers are rounded, whatever their precision; see `weights` for
            those that are rounded less.
        kept: Where packed layers are read from, or noted.

    Returns:
        The number of modules that were replaced.
    """
    rules = _Rules(
        pages=MappedPages(),
        dtype=next((each.dtype for each in model.parameters() if each.is_floating_point()), None),
        weights=weights,
        head=_head(model),
        kept=kept,
    )
    parents = {name: module for name, module in model.named_modules() if any(module.children())}
    num_replaced = 0
    for place, parent in parents.items():
        num_replaced += _join_attention(parent, place, rules)
        names = [name for name, _ in parent.named_children()]
        num_replaced += sum(_swap_leaf(parent, name, place, rules) for name in names)
    return num_replaced + (_fuse_mlps(model, rules.dtype) if rules.dtype else 0)


def _fuse_mlps(model: nn.Module, dtype: torch.dtype) -> int:
    """Replaces the gated MLPs whose layers were packed."""
    num_fused = 0
    for name, module in list(model.named_modules()):
        fused = fuse_mlp(module, dtype)
        if fused is not None:
            model.set_submodule(name, fused)
            num_fused += 1
    return num_fused


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What decides on the module that takes a leaf's place."""

    pages: MappedPages
    dtype: torch.dtype | None
    weights: Weights
    head: weakref.ref[nn.Module] | None
    """The LM head; not held, so that its weight can go when it was packed."""
    kept: WeightsCache | None

    def packed(self, name: str, pack: Callable[[], nn.Module | None]) -> nn.Module | None:
        """What `pack` makes of a layer, or made of it before."""
        if self.kept is None:
            return pack()
        restored = self.kept.restored(name)
        if restored is not None:
            return restored
        packed = pack()
        if packed is not None:
            self.kept.keep(name, packed)
        return packed

    def faster(self, leaf: nn.Module, name: str) -> nn.Module | None:
        """None if the leaf stays.

        Args:
            name: The last part of its own.
        """
        dtype = self.dtype or torch.float32
        if isinstance(leaf, StoredInt8):
            return fastest_int8(leaf)
        if isinstance(leaf, StoredInt4):
            return fastest_int4(leaf, dtype)
        if isinstance(leaf, StoredFp8):
            return fastest_fp8(leaf, dtype)
        if type(leaf) is Rotation:
            return fuse_rotation(leaf, dtype)
        weight = getattr(leaf, "weight", None)
        if not isinstance(weight, torch.Tensor):
            return None
        if type(leaf) is nn.Linear and self.weights != "stored":
            rounded = self._rounded(leaf, name)
            if rounded is not None:
                return rounded
        return self._faster_in_bf16(leaf) if weight.dtype == torch.bfloat16 else None

    def product(self, linear: nn.Linear) -> nn.Module | None:
        """What computes layers that were joined; None if they are no faster so."""
        is_on_gpu = linear.weight.device.type == "cuda" and self.dtype == torch.bfloat16
        return self.faster(linear, _JOINED) or (linear if is_on_gpu else None)

    def _rounded(self, leaf: nn.Linear, name: str) -> nn.Module | None:
        if self.weights == "int4" and self._is_head(leaf):
            return round_linear(leaf, "int8")
        is_kept = self.weights == "int8" and name == KEPT_FROM_INT8
        steady = steady_bf16(leaf) if is_kept and leaf.weight.device.type == "cpu" else None
        return steady or round_linear(leaf, self.weights)

    def _is_head(self, leaf: nn.Module) -> bool:
        return self.head is not None and self.head() is leaf

    def give_back(self, leaf: nn.Module) -> None:
        """Lets go of the file's pages that a leaf was read from."""
        for parameter in leaf.parameters(recurse=False):
            self.pages.give_back(parameter)

    def _faster_in_bf16(self, leaf: nn.Module) -> nn.Module | None:
        weight = leaf.weight
        assert isinstance(weight, torch.Tensor)
        if type(leaf) is nn.Linear:
            return fastest_bf16(leaf)
        if type(leaf) is nn.Embedding:
            return read_from_file(leaf, self.pages)
        return fuse(leaf) if type(leaf).__name__.endswith("RMSNorm") else None


def _head(model: nn.Module) -> weakref.ref[nn.Module] | None:
    named = getattr(model, "get_output_embeddings", None)
    head = named() if callable(named) else None
    return None if head is None else weakref.ref(head)


def _join_attention(parent: nn.Module, place: str, rules: _Rules) -> int:
    """Makes one product of query, key and value; most architectures name them alike."""
    children = dict(parent.named_children())
    leaves = [children[name] for name in _ATTENTION if name in children]

    def product(linear: Callable[[], nn.Linear]) -> nn.Module | None:
        return rules.packed(f"{place}.{_JOINED}", lambda: rules.product(linear()))

    parts = join(leaves, product) if len(leaves) == len(_ATTENTION) else ()
    for name, leaf, part in zip(_ATTENTION, leaves, parts, strict=bool(parts)):
        setattr(parent, name, part)
        rules.give_back(leaf)
    return len(parts)


def _swap_leaf(parent: nn.Module, name: str, place: str, rules: _Rules) -> bool:
    leaf = parent.get_submodule(name)
    faster = rules.packed(f"{place}.{name}", lambda: rules.faster(leaf, name))
    if faster is None:
        return False
    setattr(parent, name, faster)
    rules.give_back(leaf)
    return True
