"""Steps as programs: all layers of a decoder, with no Python between their calls.

With one request, Python takes a third of the time that reading the weights does, and the memory
waits; of a prompt of 128 tokens, a seventh. So the calls are written down once for each number of
rows and set of adapters, which takes less than 2 ms for 24 layers. What belongs to a step is filled
in: its angles, slots, the tiles of its attention, and the rows of adapters.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import nn

from martlet.engine.batch import PackedChunks
from martlet.engine.kv_cache import KVCache
from martlet.engine.logits import Logits
from martlet.engine.panel_pool import PanelPool
from martlet.engine.step_program import StepProgram, WrittenDecoder, leaf_name
from martlet.lora.revision import AdapterRevision
from martlet.lora.rows import Part
from martlet.lora.step import AdapterStep
from martlet.lora.written import WrittenAdapters, can_write
from martlet.models.causal_lm import CausalLM
from martlet.models.decoder.decoder import Decoder
from martlet.models.decoder.written_layer import LINEARS, WrittenLayer
from martlet.models.embedding import FileEmbedding
from martlet.models.linear.written import WrittenLinear
from martlet.models.norm import FusedRMSNorm

MAX_WANTED = 256
"""The most rows whose logits a program computes: memory that they took once is kept for them."""
_MAX_PROGRAMS = 32
_HEAD = "lm_head"
_MODULES = frozenset({"model.embed_tokens", _HEAD})
"""Leaves that can be called as they stand in the model, with whatever is around them."""


class _Key(NamedTuple):
    """What a program is written for."""

    num_rows: int
    num_wanted: int | None
    """How many rows' logits are wanted; None if all are in their order."""
    adapters: tuple[AdapterRevision, ...]
    """Those of the rows."""


class CompiledStep:
    """Computes steps, all but those of which very many rows' logits are wanted.

    Args:
        decoder: The model.
        layers, norm: Its layers, and the norm behind them.
        head: The LM head, if it can be written down.
        pools: What each of the layers writes and reads.
        adapters: Whose rows are being computed.
        max_rows: Of a step.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[WrittenLayer],
        norm: FusedRMSNorm,
        head: WrittenLinear | None,
        pools: Sequence[PanelPool],
        adapters: AdapterStep,
        *,
        max_rows: int,
    ) -> None:
        self._decoder = decoder
        sizes = {"max_rows": max_rows, "max_wanted": min(max_rows, MAX_WANTED)}
        self._written = WrittenDecoder(decoder, layers, norm, head, pools, **sizes)
        self._rows = self._written.places.rows
        self._row_bits = self._rows.numpy().view(np.uint32)
        self._embedded = np.empty(self._row_bits.shape, dtype=np.uint16)
        self._leaves = frozenset(
            leaf_name(index, name) for index in range(len(layers)) for name in LINEARS
        )
        self._adapters = adapters
        self._programs: OrderedDict[_Key, StepProgram | None] = OrderedDict()
        adapters.on_forget.append(self._forget)

    @classmethod
    def of(
        cls, model: CausalLM, cache: KVCache, adapters: AdapterStep, *, max_rows: int
    ) -> Self | None:
        """None for a model that has a layer which cannot be written down."""
        if not isinstance(model, Decoder) or model.residual_dtype != torch.float32:
            return None
        norm: nn.Module = model.model.norm
        if not isinstance(norm, FusedRMSNorm):
            return None
        layers = [WrittenLayer.of(layer, model.config) for layer in model.model.layers]
        pools = [cache.panels(index) for index in range(len(layers))]
        known = [layer for layer in layers if layer is not None]
        panels = [pool for pool in pools if pool is not None]
        if not len(known) == len(panels) == len(layers):
            return None
        head = model.lm_head if isinstance(model.lm_head, WrittenLinear) else None
        return cls(model, known, norm, head, panels, adapters, max_rows=max_rows)

    def run(self, packed: PackedChunks) -> Logits | None:
        """The logits of the wanted rows; None if the step is not for this.

        The adapters' step tells whose rows they are.
        """
        num_rows, num_wanted = packed.num_rows, len(packed.logit_rows)
        if num_wanted > MAX_WANTED:
            return None
        adapted = self._adapted()
        key = _Key(
            num_rows,
            None if packed.wants_all_rows else num_wanted,
            adapted[0].adapters if adapted else (),
        )
        program = self._program(key)
        if program is None:
            return None
        self._embed(packed.token_ids)
        logits = program.run(packed, adapted, finds_likeliest=_is_any_greedy(packed))
        return self._call_head(key) if logits is None else logits

    def _adapted(self) -> Sequence[Part]:
        """The rows by their adapters, and those whose logits are wanted; none if no row has one."""
        step = self._adapters
        if not step.tokens.parts:
            return ()
        tokens = step.tokens.whole
        return tokens, step.logits.whole_among(tokens.adapters)

    def _embed(self, token_ids: Sequence[int]) -> None:
        """Writes the vectors of tokens to where the program begins."""
        embedding = self._decoder.get_input_embeddings()
        num_rows = len(token_ids)
        if isinstance(embedding, FileEmbedding):
            embedded, bits = self._embedded[:num_rows], self._row_bits[:num_rows]
            embedding.read(token_ids, embedded.view(np.uint8))
            # In fp32 they are the upper half. PyTorch's copy takes 0.03 ms more for one row.
            np.left_shift(embedded, 16, out=bits, dtype=np.uint32)
            return
        with torch.inference_mode():
            self._rows[:num_rows] = embedding(torch.tensor([token_ids]))[0]

    @torch.inference_mode()
    def _call_head(self, key: _Key) -> Logits:
        """What the head, as it stands in the model, makes of a program's results."""
        results = self._written.results(key.num_rows, key.num_wanted)
        return Logits(self._decoder.lm_head(results[None])[0])

    def _program(self, key: _Key) -> StepProgram | None:
        if key in self._programs:
            self._programs.move_to_end(key)
        else:
            self._programs[key] = self._write(key)
            if len(self._programs) > _MAX_PROGRAMS:
                self._programs.popitem(last=False)
        return self._programs[key]

    def _write(self, key: _Key) -> StepProgram | None:
        adapters = key.adapters
        if not all(can_write(adapter, self._leaves, _MODULES) for adapter in adapters):
            return None
        added = WrittenAdapters(adapters)
        with_head = not any(_HEAD in adapter.deltas for adapter in adapters)
        calls = self._written.calls(key.num_rows, key.num_wanted, added, with_head=with_head)
        num_wanted = key.num_rows if key.num_wanted is None else key.num_wanted
        return None if calls is None else StepProgram(self._written, num_wanted, calls, added)

    def _forget(self, adapter: AdapterRevision) -> None:
        """Lets go of programs that point into an adapter which nobody uses any more."""
        for key in [key for key in self._programs if adapter in key.adapters]:
            del self._programs[key]


def _is_any_greedy(packed: PackedChunks) -> bool:
    return any(chunk.request.params.is_greedy for chunk in packed.rows.sampled)
