"""What an engine is built with, resolved once: nothing here is "auto" and nothing writes to it."""

from dataclasses import dataclass
from typing import Literal

from martlet.errors import ParameterError

KVDtype = Literal["model", "int8", "fp8"]
"""How keys and values are kept: as the model computes them, or rounded to eight bits: whole numbers
on a CPU, E4M3 on a GPU."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The sizes of an engine.

    Raises:
        ParameterError: On construction, if a size is not positive or the pool is too small.
    """

    num_blocks: int
    """Blocks of the key-value pool."""
    block_size: int = 16
    """Tokens in a block."""
    kv_dtype: KVDtype = "model"
    max_num_requests: int = 64
    """Requests computed at once; the others wait."""
    max_num_batched_tokens: int = 1024
    """Tokens of one step: the budget that decoding requests and prompts share."""
    max_context_tokens: int
    """Prompt and reply together, for one request."""
    headroom_blocks: int = 2
    """Blocks left free for each running request when another is admitted: without any, a full pool
    preempts what it has just admitted, over and over."""
    prefix_sharing: bool = True
    """Whether requests share the blocks of a common beginning."""
    speculation: bool = True
    """Whether requests guess tokens from what was said before; what is drawn stays the same."""
    max_loaded_adapters: int = 16
    """Adapters kept in memory; the least recently used goes, and is read again when used."""
    uses_kernels: bool = False
    """Whether attention runs in Triton's kernels, as CUDA devices want it."""
    graph_sizes: tuple[int, ...] = ()
    """Numbers of decoding requests, ascending, for which a step is recorded in a CUDA graph; a step
    is padded to the next of them. Looked at where kernels are used."""

    def __post_init__(self) -> None:
        for name in (
            "num_blocks",
            "block_size",
            "max_num_requests",
            "max_num_batched_tokens",
            "max_context_tokens",
            "max_loaded_adapters",
        ):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_num_batched_tokens < self.max_num_requests:
            raise ParameterError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} must be at least "
                f"max_num_requests={self.max_num_requests}: every request gets a token a step"
            )
        if self.num_blocks * self.block_size < self.max_context_tokens:
            raise ParameterError(
                f"a pool of {self.num_blocks} blocks of {self.block_size} tokens cannot hold one "
                f"request of {self.max_context_tokens} tokens; lower max_context_tokens"
            )
