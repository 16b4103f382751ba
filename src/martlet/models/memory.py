"""How memory is shared out before a model runs: weights, work space, keys and values.

Arithmetic alone, so that `martlet info` can show it for a model that was never loaded.
"""

from dataclasses import dataclass

from martlet.errors import ModelError, ResourceError
from martlet.models.available_memory import read_available_memory
from martlet.models.shape import ModelShape

GIB = 1 << 30
RESERVE_BYTES = GIB
"""Kept free for activations, logits, the tokenizer and Python itself."""
SCALE_BYTES = 4
"""Of one head's key, or value, that is kept as whole numbers."""
POOL_SHARE = 0.5
"""The part of what remains that keys and values may take: the machine has other work."""
MIN_CONTEXT_TOKENS = 512
"""A pool that cannot hold one request of this length is refused instead of made."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What each part gets, in bytes, and how the pool's size came about."""

    available_bytes: int
    source: str
    """Whose limit `available_bytes` is."""
    weights_bytes: int
    reserve_bytes: int
    pool_limit_bytes: int
    """What the pool may take at most."""
    pool_need_bytes: int
    """What it takes if every request grows to the full context."""
    kv_bytes_per_token: int
    block_size: int
    """Tokens in a block."""
    num_blocks: int
    max_context_tokens: int
    """The longest request: what was asked for, or less if the pool holds less."""
    asked_context_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens whose keys and values the pool holds at once."""
        return self.num_blocks * self.block_size

    @property
    def pool_bytes(self) -> int:
        return self.num_tokens * self.kv_bytes_per_token

    @property
    def taken_bytes(self) -> int:
        """What weights and reserve take of `available_bytes`."""
        return self.reserve_bytes + self.weights_bytes

    @property
    def lines(self) -> tuple[str, ...]:
        """The arithmetic in words, a step a line."""
        lines = [
            f"available    {_gib(self.available_bytes)} ({self.source})",
            f"weights      {_gib(self.weights_bytes)}",
            f"reserve      {_gib(self.reserve_bytes)} (activations, logits, tokenizer)",
            f"pool, limit  {_gib(self.pool_limit_bytes)}",
            f"pool, need   {_gib(self.pool_need_bytes)} (every request at its longest)",
            f"pool         {_gib(self.pool_bytes)} = {self.num_blocks:,} blocks "
            f"x {self.block_size} tokens x {self.kv_bytes_per_token:,} bytes",
        ]
        if self.max_context_tokens < self.asked_context_tokens:
            lines.append(
                f"context      {self.max_context_tokens:,} tokens fit in the pool, "
                f"of {self.asked_context_tokens:,}"
            )
        return tuple(lines)


def kv_bytes_per_token(shape: ModelShape, *, bytes_per_value: int, has_scales: bool = False) -> int:
    """Bytes of keys and values that one token takes in all layers.

    Args:
        shape: The model's measures.
        bytes_per_value: 1 for int8 and fp8, 2 for bf16 and fp16, 4 for fp32.
        has_scales: Whether a head's key, and its value, has a scale.

    Raises:
        ModelError: If the config does not tell the layers, heads or head lengths.
    """
    layers, heads = shape.num_attention_layers, shape.num_kv_heads
    if layers is None or heads is None or shape.key_dim is None or shape.value_dim is None:
        raise ModelError(
            "the config does not tell how many bytes a token's keys and values take: it names no "
            "number of layers, of heads, or no hidden size"
        )
    bytes_a_head = (shape.key_dim + shape.value_dim) * bytes_per_value
    return layers * heads * (bytes_a_head + (2 * SCALE_BYTES if has_scales else 0))


def plan_memory(
    *,
    weights_bytes: int,
    kv_bytes_per_token: int,
    block_size: int,
    max_context_tokens: int,
    max_num_requests: int,
    available_bytes: int | None = None,
    cap_bytes: int | None = None,
    pool_share: float = POOL_SHARE,
) -> MemoryPlan:
    """Sizes the pool of keys and values.

    The pool gets a share of what remains after weights and reserve, never more than all requests
    can use. A context that does not fit as a whole is shortened, and the plan says so.

    Args:
        weights_bytes: Size of the weights in the dtype that they are run in.
        kv_bytes_per_token: See the function of that name; at least 1.
        block_size: Tokens in a block.
        max_context_tokens: The longest request that is asked for, prompt and reply.
        max_num_requests: Requests computed at once.
        available_bytes: Memory to share out; None reads what this machine and cgroup have left.
        cap_bytes: The most that the pool may take, instead of a share of what remains.
        pool_share: That share.

    Raises:
        ResourceError: If the weights, or the shortest useful pool beside them, do not fit.
    """
    source = "as given"
    if available_bytes is None:
        memory = read_available_memory()
        available_bytes, source = memory.available_bytes, memory.source
    remaining_bytes = available_bytes - RESERVE_BYTES - weights_bytes
    limit_bytes = int(remaining_bytes * pool_share)
    if cap_bytes is not None:
        limit_bytes = min(remaining_bytes, cap_bytes)
    block_bytes = block_size * kv_bytes_per_token
    need_bytes = max_num_requests * _num_blocks(max_context_tokens, block_size) * block_bytes
    num_blocks = max(0, min(limit_bytes, need_bytes)) // block_bytes
    plan = MemoryPlan(
        available_bytes=available_bytes,
        source=source,
        weights_bytes=weights_bytes,
        reserve_bytes=RESERVE_BYTES,
        pool_limit_bytes=limit_bytes,
        pool_need_bytes=need_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        block_size=block_size,
        num_blocks=num_blocks,
        max_context_tokens=min(max_context_tokens, num_blocks * block_size),
        asked_context_tokens=max_context_tokens,
    )
    _check_is_useful(plan, cap_bytes, pool_share)
    return plan


def _num_blocks(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)


def _check_is_useful(plan: MemoryPlan, cap_bytes: int | None, pool_share: float) -> None:
    least_tokens = min(plan.asked_context_tokens, MIN_CONTEXT_TOKENS)
    if plan.num_tokens >= least_tokens:
        return
    least_blocks = _num_blocks(least_tokens, plan.block_size)
    least_bytes = least_blocks * plan.block_size * plan.kv_bytes_per_token
    if cap_bytes is not None and cap_bytes < least_bytes:
        raise ResourceError(
            f"the cap on keys and values is {_gib(cap_bytes)}, but the shortest useful pool "
            f"takes {_gib(least_bytes)}; raise the cap"
        )
    share = pool_share if cap_bytes is None else 1
    needed_bytes = plan.taken_bytes + int(least_bytes / share)
    raise ResourceError(
        f"{_gib(plan.available_bytes)} of memory is available ({plan.source}), "
        f"{_gib(needed_bytes)} is needed for weights, work space and the shortest useful pool; "
        "close other programs, or take a smaller model or dtype"
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
