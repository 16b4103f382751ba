"""What a work takes at the very least on a model: operations and bytes.

Counted are the products of the linear layers and of attention, each weight once a step, and the
keys and values that each drawn token reads; what prompts share counts once. A step draws one token
of a reply: an engine that guesses several ahead can be faster than this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from martlet.bench.limits import Limits
from martlet.bench.peers.protocol import Ask, Work
from martlet.errors import ModelError
from martlet.models.folder import ModelFolder
from martlet.models.memory import kv_bytes_per_token
from martlet.models.weights import INT4_BYTES, Weights

_BYTES_A_VALUE = {"int8": 1.0, "int4": INT4_BYTES}
CACHE_BYTES = 2**28
"""Smaller weights may stay in a processor's caches, and memory is no limit."""


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model costs a token."""

    layer_values: int
    """Weights that every token is multiplied with."""
    head_values: int
    """Weights of the LM head: for drawn tokens alone."""
    weights_bytes: float
    """Of both."""
    attention_operations: int
    """For one query and one key, in all layers."""
    kv_bytes: int
    """Keys and values of one token, in all layers."""

    @classmethod
    def of(cls, folder: ModelFolder, dtype: torch.dtype, weights: Weights) -> "ModelCost | None":
        """Reads the sizes from the headers; None for models that these do not tell it of: with
        experts, or quantised already."""
        has_experts = any("expert" in name for name in folder.tensors)
        shape = folder.shape
        if folder.quantization_method is not None or has_experts:
            return None
        try:
            kv_bytes = kv_bytes_per_token(shape, bytes_per_value=dtype.itemsize)
        except ModelError:
            return None
        matrices = [tensor for tensor in folder.tensors.values() if len(tensor.shape) == 2]
        ends = [tensor for tensor in matrices if tensor.shape[0] == folder.num_embeddings]
        head_values = ends[-1].num_values if ends else 0
        layer_values = sum(each.num_values for each in matrices) - sum(
            each.num_values for each in ends
        )
        head_size = dtype.itemsize if weights == "stored" else 1
        layer_size = _BYTES_A_VALUE.get(weights, dtype.itemsize)
        dims = (shape.key_dim or 0) + (shape.value_dim or 0)
        return cls(
            layer_values=layer_values,
            head_values=head_values,
            weights_bytes=layer_values * layer_size + head_values * head_size,
            attention_operations=2
            * (shape.num_attention_layers or 0)
            * (shape.num_heads or 0)
            * dims,
            kv_bytes=kv_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a work takes."""

    num_operations: float
    num_bytes: float
    """Read from memory; 0 for weights that may stay in a cache."""

    @classmethod
    def of(cls, work: Work, model: ModelCost) -> "Cost | None":
        """Counts; None if replies may end early, since nobody knows the tokens beforehand."""
        if work.stop_ids:
            return None
        samples = work.num_samples
        pairs, computed, read = 0, 0, 0
        for ask, num_shared in _with_shared(work.asks):
            length, num_new = len(ask.prompt_ids), ask.num_new_tokens
            computed += length - num_shared + samples * (num_new - 1)
            pairs += _sum_to(length) - _sum_to(num_shared)
            own = _sum_to(num_new - 1)
            pairs += samples * (length * (num_new - 1) + own)
            read += (length - num_shared) * (num_new - 1) + samples * own
        drawn = samples * sum(ask.num_new_tokens for ask in work.asks)
        num_bytes = 0.0
        if model.weights_bytes > CACHE_BYTES:
            num_steps = max(ask.num_new_tokens for ask in work.asks)
            num_bytes = model.weights_bytes * num_steps + model.kv_bytes * read
        return cls(
            num_operations=2.0 * (model.layer_values * computed + model.head_values * drawn)
            + model.attention_operations * pairs,
            num_bytes=num_bytes,
        )

    def least_seconds(self, limits: Limits) -> float:
        """The time that no engine can go below on a machine with these limits."""
        return max(
            self.num_operations / limits.product_gflop_per_s / 1e9,
            self.num_bytes / limits.read_gb_per_s / 1e9,
        )


def _with_shared(asks: Sequence[Ask]) -> list[tuple[Ask, int]]:
    """Each prompt with how many of its first tokens another one before it has too."""
    ordered = sorted(asks, key=lambda ask: ask.prompt_ids)
    before: list[int] = []
    found = []
    for ask in ordered:
        pairs = zip(before, ask.prompt_ids, strict=False)
        num_same = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
        if num_same is None:
            num_same = min(len(before), len(ask.prompt_ids))
        found.append((ask, num_same))
        before = ask.prompt_ids
    return found


def _sum_to(count: int) -> int:
    return count * (count + 1) // 2
