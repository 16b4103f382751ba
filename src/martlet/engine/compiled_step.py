"""Steps of few rows as programs: all layers of a decoder, with no Python between their calls.

With one request, Python takes a third of the time that reading the weights does, and the memory
waits. So the calls are written down once for each number of rows. What belongs to a step is filled
in: its angles, slots, and the tiles of its attention.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from martlet.engine.attention import Reach, StepAttention
from martlet.engine.batch import StepBatch
from martlet.engine.compiled_attention import NUM_STEP_ARGUMENTS, LayerAttention, can_attend
from martlet.engine.kv_cache import KVCache
from martlet.models.causal_lm import CausalLM
from martlet.models.decoder.decoder import Decoder
from martlet.models.decoder.written_layer import RowPlaces, WrittenLayer
from martlet.models.norm import FusedRMSNorm
from martlet.models.openmp import Call

MAX_ROWS = 256
"""Beyond, Python takes no time worth counting beside the products."""
_MAX_PROGRAMS = 32
"""Numbers of rows whose programs are kept."""


class CompiledStep:
    """Computes the steps that have few rows, all with logits, and no adapter.

    Args:
        decoder: The model.
        layers, norm: Its layers, and the norm behind them.
        cache: The pool that they write and read.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[WrittenLayer],
        norm: FusedRMSNorm,
        cache: KVCache,
    ) -> None:
        self._decoder, self._layers, self._norm, self._cache = decoder, layers, norm, cache
        self._places = RowPlaces(decoder.config, MAX_ROWS)
        config = decoder.config
        shape = {"num_heads": config.num_attention_heads, "dim": config.head_dim}
        self._attention = [
            LayerAttention(cache, index, scaling=config.head_dim**-0.5, **shape)
            for index in range(len(layers))
        ]
        self._programs: OrderedDict[int, _StepProgram | None] = OrderedDict()

    @classmethod
    def of(cls, model: CausalLM, cache: KVCache) -> Self | None:
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
        return cls(model, known, norm, cache) if len(known) == len(layers) else None

    @torch.inference_mode()
    def run(self, batch: StepBatch) -> Tensor | None:
        """The logits of a batch's wanted rows, `[N, V]`; None if it is not for this."""
        assert isinstance(batch.attention, StepAttention)
        num_rows = batch.input_ids.shape[1]
        program = self._program(num_rows) if self._fits(batch) else None
        if program is None:
            return None
        x = self._decoder.get_input_embeddings()(batch.input_ids)
        self._places.rows[:num_rows] = x[0]
        cosines, sines = self._decoder.model.rotary_emb(batch.position_ids, x.dtype)
        program.run(batch.attention, cosines, sines)
        results = self._places.results[:num_rows]
        rows = results if batch.wants_all_rows else results[batch.logit_rows]
        logits: Tensor = self._decoder.lm_head(rows[None])[0]
        return logits

    @staticmethod
    def _fits(batch: StepBatch) -> bool:
        num_rows = batch.input_ids.shape[1]
        return (
            num_rows <= MAX_ROWS
            and len(batch.logit_rows) == num_rows
            and all(adapter is None for _, adapter in batch.token_adapters)
        )

    def _program(self, num_rows: int) -> "_StepProgram | None":
        if num_rows in self._programs:
            self._programs.move_to_end(num_rows)
        else:
            self._programs[num_rows] = self._write(num_rows)
            if len(self._programs) > _MAX_PROGRAMS:
                self._programs.popitem(last=False)
        return self._programs[num_rows]

    def _write(self, num_rows: int) -> "_StepProgram | None":
        """None if so many rows are not multiplied by compiled functions."""
        places, config = self._places, self._decoder.config
        norms = [*(layer.input_norm for layer in self._layers[1:]), self._norm]
        calls = [self._layers[0].input_norm.call(places.x, places.normed, num_rows)]
        rotations, attentions = [], []
        for index, (layer, next_norm) in enumerate(zip(self._layers, norms, strict=True)):
            before = layer.before_attention(places, num_rows, self._cache.pools(index))
            after = layer.after_attention(places, num_rows)
            if before is None or after is None:
                return None
            calls += before
            rotations.append(len(calls) - 1)
            attentions.append(len(calls))
            calls += [self._attention_call(index), *after]
            calls.append(
                next_norm.call_after_adding(places.x, places.added, places.normed, num_rows)
            )
        num_groups = config.num_attention_heads // config.num_key_value_heads
        return _StepProgram(calls, rotations, attentions, num_groups)

    def _attention_call(self, layer: int) -> Call:
        from martlet.models.compiled.attention import attend

        places, dim = self._places, self._decoder.config.head_dim
        own = self._attention[layer].arguments(
            places.projected, places.mixed, places.projected_bytes, 2 * dim
        )
        return Call(attend().address, (*(0,) * NUM_STEP_ARGUMENTS, *own))


class _StepProgram:
    """A program, and where in it the arguments are that belong to a step.

    Args:
        calls: Of all layers.
        rotations, attentions: Which of them rotate and attend.
        num_groups: Query heads of a key-value head.
    """

    def __init__(
        self, calls: list[Call], rotations: list[int], attentions: list[int], num_groups: int
    ) -> None:
        from martlet.models.compiled.program import Program

        self._program = Program(calls)
        self._rotations, self._attentions = rotations, attentions
        self._num_groups = num_groups

    def run(self, step: StepAttention, cosines: Tensor, sines: Tensor) -> None:
        """Computes a step, from the rows at their place to their results at theirs."""
        arguments = self._program.arguments
        places = cosines.data_ptr(), sines.data_ptr(), step.slots.data_ptr()
        arguments[self._rotations, 1 : 1 + len(places)] = places
        tiles = step.tiles(self._num_groups)
        first_keys = step.first_keys(Reach(), tiles)
        of_step = tiles.arguments(first_keys)
        arguments[self._attentions, 1 : 1 + len(of_step)] = of_step
        self._program.run()
