"""Computes steps on a CUDA device: kernels for attention, graphs for decoding."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from martlet.engine.batch import LogitRows, StepBatch
from martlet.engine.config import EngineConfig
from martlet.engine.cuda.attention import KernelStep, kernel_attention, new_parts
from martlet.engine.cuda.batch import pack
from martlet.engine.cuda.graphs import DecodeGraphs, GraphRecorder, repeat
from martlet.engine.cuda.step_buffer import StepBuffer
from martlet.engine.cuda.work import WorkShape
from martlet.engine.logits import Logits
from martlet.engine.plan import StepPlan
from martlet.engine.runner import forward, new_cache
from martlet.lora.rows import Segment
from martlet.lora.step import AdapterStep
from martlet.models.guard import LayerShape
from martlet.models.load import LoadedModel

ATTENTION_NAME = "martlet_kernels"
"""The name under which transformers knows `kernel_attention`."""
WIDE_ROWS = 64
"""Rows of one product in a wide item: its tokens times their heads of a key-value head."""
PROGRAMS_A_MULTIPROCESSOR = 4
"""Programs of the attention kernel that hide each other's waiting for memory."""


class KernelRunner:
    """Computes steps by the kernels of this folder; see `engine.runner.StepRunner`.

    Args:
        model: Its attention is replaced.
        config: Sizes.
        adapters: Whose rows are being computed.
        num_blocks: Of the pool.
        is_probe: See `PlainRunner`.
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
        self._model = model
        self._adapters = adapters
        self._is_probe = is_probe
        self._shape = work_shape(model.layers, model.device)
        # A prompt's rows have one part each: only those that decode are ever cut.
        self._parts = new_parts(
            self._shape.max_parts(config.max_num_requests), model.layers, model.device
        )
        self._graphs = DecodeGraphs(
            config.graph_sizes,
            shape=self._shape,
            max_blocks=-(-config.max_context_tokens // config.block_size),
            device=model.device,
            record=GraphRecorder() if model.device.type == "cuda" else repeat,
        )
        model.use_attention(ATTENTION_NAME, kernel_attention)

    def run(self, plan: StepPlan) -> tuple[LogitRows, Logits]:
        """See `StepRunner`."""
        packed = pack(plan, self._shape, self.cache.block_size)
        rows = LogitRows.of(packed.chunks)
        has_adapters = any(chunk.request.adapter is not None for chunk in packed.chunks)
        # Which layers an adapter changes, and how, is decided in Python for each step anew.
        logits = None
        if not has_adapters and not self._is_probe:
            logits = self._graphs.run(packed, self._compute_decoding)
        if logits is None:
            buffer = StepBuffer(packed.arrays.shapes, self._model.device)
            buffer.load(packed.arrays)
            batch = self._batch(
                buffer, rows, [(c.num_tokens, c.request.adapter) for c in packed.chunks]
            )
            logits = forward(self._model, batch, self._adapters, is_probe=self._is_probe)
        return rows, Logits(logits)

    def _compute_decoding(self, buffer: StepBuffer) -> Tensor:
        """The logits of all rows of a buffer, `[T, V]`."""
        batch = self._batch(buffer, LogitRows(scored=(), sampled=()), ())
        return forward(self._model, replace(batch, wants_all_rows=True), self._adapters)

    def _batch(
        self, buffer: StepBuffer, rows: LogitRows, token_adapters: Sequence[Segment]
    ) -> StepBatch:
        return StepBatch(
            input_ids=buffer["input_ids"][None],
            position_ids=buffer["position_ids"][None],
            logit_rows=buffer["logit_rows"],
            wants_all_rows=False,
            attention=KernelStep(
                cache=self.cache,
                slots=buffer["slots"],
                positions=buffer["position_ids"],
                block_ids=buffer["block_ids"],
                narrow=buffer["narrow"],
                wide=buffer["wide"],
                num_wide_tokens=self._shape.num_wide_tokens,
                first_parts=buffer["first_parts"],
                num_parts=buffer["num_parts"],
                parts=self._parts,
                chunked_layers=self._model.chunked_layers,
                chunk_size=self._model.attention_chunk_size,
            ),
            token_adapters=tuple(token_adapters),
            rows=rows,
        )


def work_shape(layers: Sequence[LayerShape], device: torch.device) -> WorkShape:
    """How items are cut for layers of these shapes."""
    largest_group = max(layer.num_heads // layer.num_kv_heads for layer in layers)
    num_processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 1
    )
    num_programs = num_processors * PROGRAMS_A_MULTIPROCESSOR
    return WorkShape(
        num_wide_tokens=max(1, WIDE_ROWS // largest_group),
        num_items_wanted=-(-num_programs // min(layer.num_kv_heads for layer in layers)),
    )
