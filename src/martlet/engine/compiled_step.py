"""Steps of few rows as programs: all layers of a decoder, with no Python between their calls.

With one request, Python takes a third of the time that reading the weights does, and the memory
waits. So the calls are written down once for each number of rows and set of adapters. What belongs
to a step is filled in: its angles, slots, the tiles of its attention, and the rows of adapters.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from martlet.engine.attention import StepAttention
from martlet.engine.batch import StepBatch
from martlet.engine.compiled_attention import can_attend
from martlet.engine.kv_cache import KVCache
from martlet.engine.step_program import StepProgram, WrittenDecoder, leaf_name
from martlet.lora.revision import AdapterRevision
from martlet.lora.step import AdapterStep
from martlet.lora.written import WrittenAdapters, can_write
from martlet.models.causal_lm import CausalLM
from martlet.models.decoder.decoder import Decoder
from martlet.models.decoder.written_layer import LINEARS, WrittenLayer
from martlet.models.norm import FusedRMSNorm

MAX_ROWS = 256
"""Beyond, Python takes no time worth counting beside the products."""
_MAX_PROGRAMS = 32
_MODULES = frozenset({"model.embed_tokens", "lm_head"})
"""Leaves that are called as they stand in the model, with whatever is around them."""

_Key = tuple[int, tuple[AdapterRevision, ...]]
"""What a program is written for: the number of rows, and the adapters among them."""


class CompiledStep:
    """Computes the steps that have few rows, all with logits.

    Args:
        decoder: The model.
        layers, norm: Its layers, and the norm behind them.
        cache: The pool that they write and read.
        adapters: Whose rows are being computed.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[WrittenLayer],
        norm: FusedRMSNorm,
        cache: KVCache,
        adapters: AdapterStep,
    ) -> None:
        self._decoder = decoder
        self._written = WrittenDecoder(decoder, layers, norm, cache, max_rows=MAX_ROWS)
        self._leaves = frozenset(
            leaf_name(index, name) for index in range(len(layers)) for name in LINEARS
        )
        self._adapters = adapters
        self._programs: OrderedDict[_Key, StepProgram | None] = OrderedDict()
        adapters.on_forget.append(self._forget)

    @classmethod
    def of(cls, model: CausalLM, cache: KVCache, adapters: AdapterStep) -> Self | None:
        """None for a model that has a layer which cannot be written down."""
        if not isinstance(model, Decoder):
            return None
        norm: nn.Module = model.model.norm
        if not isinstance(norm, FusedRMSNorm):
            return None
        num_heads = model.config.num_attention_heads
        layers = [
            WrittenLayer.of(layer, model.config) if can_attend(cache, index, num_heads) else None
            for index, layer in enumerate(model.model.layers)
        ]
        known = [layer for layer in layers if layer is not None]
        return cls(model, known, norm, cache, adapters) if len(known) == len(layers) else None

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Tensor | None:
        """The logits of a batch's wanted rows, `[N, V]`; None if it is not for this.

        The adapters' step tells whose rows they are.
        """
        assert isinstance(batch.attention, StepAttention)
        num_rows = batch.input_ids.shape[1]
        if num_rows > MAX_ROWS or len(batch.logit_rows) < num_rows:
            return None
        tokens = self._adapters.tokens
        adapted = tokens.whole if tokens.parts else None
        program = self._program((num_rows, () if adapted is None else adapted.adapters))
        if program is None:
            return None
        rows, results = self._written.places.rows, self._written.places.results
        x = self._decoder.get_input_embeddings()(batch.input_ids)
        rows[:num_rows] = x[0]
        angles = self._decoder.model.rotary_emb(batch.position_ids, x.dtype)
        program.run(batch.attention, angles, adapted)
        wanted = slice(num_rows) if batch.wants_all_rows else batch.logit_rows
        logits: Tensor = self._decoder.lm_head(results[None, wanted])[0]
        return logits

    def _program(self, key: _Key) -> StepProgram | None:
        if key in self._programs:
            self._programs.move_to_end(key)
        else:
            self._programs[key] = self._write(*key)
            if len(self._programs) > _MAX_PROGRAMS:
                self._programs.popitem(last=False)
        return self._programs[key]

    def _write(self, num_rows: int, adapters: tuple[AdapterRevision, ...]) -> StepProgram | None:
        if not all(can_write(adapter, self._leaves, _MODULES) for adapter in adapters):
            return None
        added = WrittenAdapters(adapters)
        calls = self._written.calls(num_rows, added)
        return None if calls is None else StepProgram(self._written, calls, added)

    def _forget(self, adapter: AdapterRevision) -> None:
        """Lets go of programs that point into an adapter which nobody uses any more."""
        for key in [key for key in self._programs if adapter in key[1]]:
            del self._programs[key]
