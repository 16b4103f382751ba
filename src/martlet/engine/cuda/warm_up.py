"""How many blocks a GPU has room for, when its largest step was seen."""

import gc
from dataclasses import dataclass, replace

import torch

from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.runner import cache_bytes_per_token
from martlet.errors import ResourceError
from martlet.models.load import LoadedModel
from martlet.models.memory import GIB, MIN_CONTEXT_TOKENS


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What a GPU has, in bytes, after the model was loaded and one step was computed."""

    total_bytes: int
    free_bytes: int
    """What neither this process nor another one holds."""
    step_bytes: int
    """What the largest step takes besides weights and pool."""

    def pool_bytes(self, utilization: float) -> int:
        """What keys and values may take, so that a share of the device stays free for others.

        Args:
            utilization: The part of the whole device that may be in use, by all processes.
        """
        kept_bytes = int(self.total_bytes * (1 - utilization))
        return max(0, self.free_bytes - kept_bytes - self.step_bytes)


def fit_pool(model: LoadedModel, config: EngineConfig, *, utilization: float) -> EngineConfig:
    """A config whose pool fits beside the weights and the largest step.

    Args:
        config: Its pool is what all requests can use at most.
        utilization: The part of the device that may be in use.

    Raises:
        ResourceError: If a useful pool does not fit.
    """
    memory = _measure(model, config)
    block_bytes = config.block_size * cache_bytes_per_token(model, config)
    num_blocks = min(config.num_blocks, memory.pool_bytes(utilization) // block_bytes)
    num_tokens = num_blocks * config.block_size
    least_tokens = min(config.max_context_tokens, MIN_CONTEXT_TOKENS)
    if num_tokens < least_tokens:
        raise ResourceError(
            f"{memory.free_bytes / GIB:.2f} of {memory.total_bytes / GIB:.2f} GiB of the GPU are "
            f"free beside the weights, and a step takes {memory.step_bytes / GIB:.2f} GiB: no pool "
            f"of {least_tokens} tokens fits within --gpu-memory-utilization {utilization:g}; raise "
            "it, lower --max-batched-tokens, or end other programs on the GPU"
        )
    return replace(
        config, num_blocks=num_blocks, max_context_tokens=min(config.max_context_tokens, num_tokens)
    )


def _measure(model: LoadedModel, config: EngineConfig) -> DeviceMemory:
    """Computes and samples one step that is as large as steps get, over a pool of its own."""
    num_requests = min(config.max_num_requests, config.max_num_batched_tokens)
    length = max(1, config.max_num_batched_tokens // num_requests)
    length = min(length, config.max_context_tokens - 1)
    blocks_a_request = length // config.block_size + 2
    small = replace(
        config,
        num_blocks=max(
            num_requests * blocks_a_request, -(-config.max_context_tokens // config.block_size)
        ),
        headroom_blocks=0,
        prefix_sharing=False,
        speculation=False,
        graph_sizes=(),
    )
    torch.cuda.empty_cache()
    engine = Engine(model, small)
    held_bytes = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    params = SamplingParams(temperature=1, top_p=0.9, max_tokens=1)
    for index in range(num_requests):
        engine.add(str(index), [index % model.vocab_size] * length, params, seed=index)
    while engine.num_unfinished:
        engine.step()
    step_bytes = torch.cuda.max_memory_allocated(model.device) - held_bytes
    del engine
    # An engine and its adapters know each other, so its pool waits for the collector.
    gc.collect()
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info(model.device)
    return DeviceMemory(total_bytes=total_bytes, free_bytes=free_bytes, step_bytes=step_bytes)
