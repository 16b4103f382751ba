"""From a plan to the logits of its rows: the model, the pool and the attention of an engine."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from martlet.engine.attention import ATTENTION_NAME, paged_attention
from martlet.engine.batch import BatchBuilder, LogitRows, PackedChunks, StepBatch
from martlet.engine.compiled_step import CompiledStep
from martlet.engine.config import EngineConfig, KVDtype
from martlet.engine.cuda.fp8_cache import Fp8Cache
from martlet.engine.int8_cache import Int8Cache
from martlet.engine.kv_cache import KVCache, rounded_bytes_per_token
from martlet.engine.logits import Logits
from martlet.engine.plan import StepPlan
from martlet.lora.step import AdapterStep
from martlet.models.load import LoadedModel

_CACHES: Mapping[KVDtype, type[KVCache]] = MappingProxyType(
    {"model": KVCache, "int8": Int8Cache, "fp8": Fp8Cache}
)


class StepRunner(Protocol):
    """Computes steps."""

    cache: KVCache

    def run(self, plan: StepPlan) -> tuple[LogitRows, Logits]:
        """Computes a plan, and writes its keys and values to the pool.

        Returns:
            Whose logits they are, and the logits; the next call overwrites them.
        """


class PlainRunner:
    """Computes steps by the operations of PyTorch that every device has; by few compiled calls
    where that can be.

    Args:
        model: Its attention is replaced.
        config: Sizes.
        adapters: Whose rows are being computed.
        num_blocks: Of the pool.
        is_probe: Whether to leave what is kept for the running requests as it is.
    """

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        adapters: AdapterStep,
        *,
        num_blocks: int,
        is_probe: bool = False,
    ) -> None:
        self.cache = new_cache(model, config, num_blocks)
        self._model, self._device = model, model.device
        self._adapters = adapters
        self._is_probe = is_probe
        self._batches = BatchBuilder(
            self.cache,
            model.device,
            chunked_layers=model.chunked_layers,
            chunk_size=model.attention_chunk_size,
        )
        model.use_attention(ATTENTION_NAME, paged_attention)
        # A probe compares the base with adapters, which must differ by nothing else.
        max_rows = config.max_num_batched_tokens
        self._compiled = (
            None
            if is_probe
            else CompiledStep.of(model.module, self.cache, adapters, max_rows=max_rows)
        )

    def run(self, plan: StepPlan) -> tuple[LogitRows, Logits]:
        """See `StepRunner`."""
        packed = PackedChunks.of(plan, self.cache.block_size)
        segments = packed.token_adapters, packed.rows.adapters
        with self._adapters.running(*segments, self._device, is_probe=self._is_probe):
            logits = None if self._compiled is None else self._compiled.run(packed)
            if logits is None:
                logits = Logits(_forward(self._model, self._batches.build(packed)))
        return packed.rows, logits


def new_runner(
    model: LoadedModel,
    config: EngineConfig,
    adapters: AdapterStep,
    *,
    num_blocks: int,
    is_probe: bool = False,
) -> StepRunner:
    """The runner that a config asks for; its arguments are those of `PlainRunner`."""
    if not config.uses_kernels:
        return PlainRunner(model, config, adapters, num_blocks=num_blocks, is_probe=is_probe)
    from martlet.engine.cuda.runner import KernelRunner

    return KernelRunner(model, config, adapters, num_blocks=num_blocks, is_probe=is_probe)


def new_cache(model: LoadedModel, config: EngineConfig, num_blocks: int) -> KVCache:
    """A pool for a model's keys and values."""
    return _CACHES[config.kv_dtype](
        model.layers,
        num_blocks=num_blocks,
        block_size=config.block_size,
        dtype=model.dtype,
        device=model.device,
    )


def cache_bytes_per_token(model: LoadedModel, config: EngineConfig) -> int:
    """What `new_cache` takes for each token that it has room for."""
    if config.kv_dtype == "model":
        return model.cache_bytes_per_token
    return rounded_bytes_per_token(model.layers)


def forward(
    model: LoadedModel, batch: StepBatch, adapters: AdapterStep, *, is_probe: bool = False
) -> Tensor:
    """The logits of a batch's wanted rows, `[N, V]`."""
    segments = batch.token_adapters, batch.rows.adapters
    with adapters.running(*segments, model.device, is_probe=is_probe):
        return _forward(model, batch)


def _forward(model: LoadedModel, batch: StepBatch) -> Tensor:
    return model.forward(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        logit_rows=batch.logit_rows,
        wants_all_rows=batch.wants_all_rows,
        martlet_step=batch.attention,
    )
