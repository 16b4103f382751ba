"""What a work takes at the very least on a model: operations and bytes.

Counted are the products of the linear layers and of attention, each weight once a step, and the
keys and values that each drawn token reads; what prompts share counts once, and of a prompt only
the last token needs the last layer. A step draws one token of a reply: an engine that guesses
several ahead can be faster than this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from martlet.bench.limits import Limits
from martlet.bench.peers.protocol import Ask, Work
from martlet.errors import ModelError
from martlet.models.folder import ModelFolder
from martlet.models.memory import kv_bytes_per_token
from martlet.models.shard import TensorEntry
from martlet.models.weights import INT4_BYTES, Weights

_BYTES_A_VALUE = {"int8": 1.0, "int4": INT4_BYTES}
CACHE_BYTES = 2**28
"""Smaller weights may stay in a processor's caches, and memory is no limit."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a machine can do all at once, so that the slower of the two decides."""

    num_operations: float
    num_bytes: float
    """Read from memory; 0 for weights that may stay in a cache."""

    def least_seconds(self, limits: Limits) -> float:
        """The time below which it cannot be done on a machine with these limits."""
        return max(
            self.num_operations / limits.product_gflop_per_s / 1e9,
            self.num_bytes / limits.read_gb_per_s / 1e9,
        )


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model costs a token."""

    layer_values: int
    """Weights of the layers."""
    last_layer_values: int
    """Of these, what may be left out for tokens whose logits nobody wants. Their keys and values
    may not, but are so few that they are not told apart."""
    head_values: int
    """Weights of the LM head: for drawn tokens alone."""
    weights_bytes: float
    """Of both."""
    attention_operations: int
    """For one query and one key, in all layers."""
    last_attention_operations: int
    """In the last one alone."""
    kv_bytes: int
    """Keys and values of one token, in all layers."""

    @classmethod
    def of(
        cls,
        folder: ModelFolder,
        dtype: torch.dtype,
        weights: Weights,
        *,
        stored_size: float | None = None,
    ) -> "ModelCost | None":
        """Reads the sizes from the headers; None for models that these do not tell it of: with
        experts, or quantised already.

        Args:
            stored_size: Bytes in which an engine holds a weight that is not rounded, unless those
                of the dtype.
        """
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
        size = dtype.itemsize if stored_size is None else stored_size
        head_size = size if weights == "stored" else 1
        layer_size = _BYTES_A_VALUE.get(weights, size)
        dims = (shape.key_dim or 0) + (shape.value_dim or 0)
        layer_operations = 2 * (shape.num_heads or 0) * dims
        return cls(
            layer_values=layer_values,
            last_layer_values=_last_layer_values(folder, matrices),
            head_values=head_values,
            weights_bytes=layer_values * layer_size + head_values * head_size,
            attention_operations=layer_operations * (shape.num_attention_layers or 0),
            last_attention_operations=layer_operations,
            kv_bytes=kv_bytes,
        )

    def load(
        self,
        *,
        num_steps: int = 0,
        num_unseen: int = 0,
        num_unseen_pairs: int = 0,
        num_drawn: int = 0,
        num_drawn_pairs: int = 0,
        num_read: int = 0,
    ) -> Load:
        """What some tokens take, on top of reading the weights.

        Args:
            num_steps: In which all weights are read.
            num_unseen: Tokens whose logits nobody wants.
            num_unseen_pairs: Their queries' keys.
            num_drawn: Tokens after which one is drawn.
            num_drawn_pairs: Their queries' keys.
            num_read: Tokens whose keys and values are read.
        """
        unseen = self.layer_values - self.last_layer_values
        values = unseen * num_unseen + (self.layer_values + self.head_values) * num_drawn
        attention = self.attention_operations * (num_unseen_pairs + num_drawn_pairs)
        attention -= self.last_attention_operations * num_unseen_pairs
        is_in_memory = self.weights_bytes > CACHE_BYTES
        return Load(
            num_operations=2.0 * values + attention,
            num_bytes=is_in_memory * (self.weights_bytes * num_steps + self.kv_bytes * num_read),
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a work takes."""

    whole: Load
    """All of it."""
    longest_prompt: Load
    """Of the request with the longest reply: what its first token waits for."""
    longest_reply: Load
    """Of the same one: the steps after that, each from the token that the one before drew."""

    @classmethod
    def of(cls, work: Work, model: ModelCost) -> "Cost | None":
        """Counts; None if replies may end early, since nobody knows the tokens beforehand."""
        if work.stop_ids:
            return None
        asks = _with_shared(work.asks)
        longest = max(work.asks, key=lambda ask: (ask.num_new_tokens, len(ask.prompt_ids)))
        return cls(
            whole=_sum(
                [
                    model.load(num_steps=longest.num_new_tokens),
                    *(_prompt(model, ask, num_shared) for ask, num_shared in asks),
                    *(_reply(model, ask, num_shared, work.num_samples) for ask, num_shared in asks),
                ]
            ),
            longest_prompt=_sum([model.load(num_steps=1), _prompt(model, longest)]),
            longest_reply=_sum(
                [model.load(num_steps=longest.num_new_tokens - 1), _reply(model, longest)]
            ),
        )

    def least_seconds(self, limits: Limits) -> float:
        """The time that no engine can go below on a machine with these limits.

        A prompt is most often held up by products and a reply by memory; different requests may do
        both at once, but a request must do one after the other.
        """
        in_turn = (self.longest_prompt, self.longest_reply)
        return max(
            self.whole.least_seconds(limits), sum(each.least_seconds(limits) for each in in_turn)
        )


def _prompt(model: ModelCost, ask: Ask, num_shared: int = 0) -> Load:
    """A prompt up to its first drawn token, whose first tokens may have been computed before."""
    length = len(ask.prompt_ids)
    return model.load(
        num_unseen=max(length - 1 - num_shared, 0),
        num_unseen_pairs=max(_sum_to(length - 1) - _sum_to(num_shared), 0),
        num_drawn=1,
        num_drawn_pairs=length,
    )


def _reply(model: ModelCost, ask: Ask, num_shared: int = 0, num_samples: int = 1) -> Load:
    """The tokens of a prompt's replies after the first one of each."""
    length, num_tokens = len(ask.prompt_ids), ask.num_new_tokens - 1
    own = num_samples * _sum_to(num_tokens)
    return model.load(
        num_drawn=num_samples * num_tokens,
        num_drawn_pairs=num_samples * length * num_tokens + own,
        num_read=(length - num_shared) * num_tokens + own,
    )


def _sum(loads: Sequence[Load]) -> Load:
    return Load(
        num_operations=sum(load.num_operations for load in loads),
        num_bytes=sum(load.num_bytes for load in loads),
    )


def _last_layer_values(folder: ModelFolder, matrices: Sequence[TensorEntry]) -> int:
    marker = f".{(folder.shape.num_layers or 0) - 1}."
    return sum(each.num_values for each in matrices if marker in each.name)


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
