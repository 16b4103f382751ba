"""A step of few rows as one program: the calls of all layers, and what in them changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from martlet.engine.batch import PackedChunks
from martlet.engine.compiled_attention import NUM_STEP_ARGUMENTS, LayerAttention, TokenTiles
from martlet.engine.logits import Likeliest, Logits
from martlet.engine.panel_pool import PanelPool
from martlet.lora.rows import Part
from martlet.lora.written import WrittenAdapters
from martlet.models.decoder.angle_table import AngleTable
from martlet.models.decoder.decoder import Decoder
from martlet.models.decoder.written_head import WrittenHead
from martlet.models.decoder.written_layer import RowPlaces, WrittenLayer
from martlet.models.linear.compiled_low_rank import rows_of
from martlet.models.linear.written import WrittenLinear
from martlet.models.norm import FusedRMSNorm
from martlet.models.openmp import Call


class WrittenDecoder:
    """The layers of a decoder, the norm behind them and the head, with the pools that they use.

    Args:
        decoder: Whose layers these are.
        layers, norm, head: As they are before any adapter is put around them; no head if it cannot
            be written down.
        pools: One for each layer.
        max_rows: Of a step.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[WrittenLayer],
        norm: FusedRMSNorm,
        head: WrittenLinear | None,
        pools: Sequence[PanelPool],
        *,
        max_rows: int,
    ) -> None:
        config = decoder.config
        shape = {"num_heads": config.num_attention_heads, "dim": config.head_dim}
        self.places = RowPlaces(config, max_rows)
        self.angles = AngleTable(decoder.model.rotary_emb, config.head_dim, max_rows)
        self.slots = np.empty(max_rows, dtype=np.int64)
        """`[M]`, where the keys and values of the rows go."""
        self.head = None if head is None else WrittenHead(head, max_rows)
        self.num_groups = config.num_attention_heads // config.num_key_value_heads
        self._layers, self._pools, self._dim = layers, pools, config.head_dim
        self.is_pool_rounded = pools[0].is_rounded
        self._attention = [
            LayerAttention(pool, scaling=config.head_dim**-0.5, **shape) for pool in pools
        ]
        self._next_norms = [*(layer.input_norm for layer in layers[1:]), norm]

    def calls(
        self, num_rows: int, adapters: WrittenAdapters, *, with_head: bool
    ) -> list[Call] | None:
        """From `places.rows` to `places.results`, and with the head to its logits, if it can.

        Returns:
            None if so many rows are not multiplied by compiled functions.
        """
        places = self.places
        calls = [self._layers[0].input_norm.call(places.x, places.normed, num_rows, is_wide=True)]
        for index, layer in enumerate(self._layers):

            def adapt(name: str, *how: Any, index: int = index) -> list[Call]:
                return adapters.calls(leaf_name(index, name), *how)

            before = layer.before_attention(places, num_rows, self._pools[index], adapt)
            after = layer.after_attention(places, num_rows, adapt)
            if before is None or after is None:
                return None
            norm = self._next_norms[index]
            following = norm.call_after_adding(places.x, places.added, places.normed, num_rows)
            calls += [*before, self._attention_call(index), *after, following]
        if with_head and self.head is not None:
            calls += self.head.calls(places.normed, num_rows, places.scratch) or ()
        return calls

    def _attention_call(self, layer: int) -> Call:
        from martlet.models.compiled.attention import attend

        places, is_rounded = self.places, self.is_pool_rounded
        own = self._attention[layer].arguments(
            places.projected, places.mixed, places.projected_bytes, 4 * self._dim
        )
        function = attend(is_rounded=is_rounded)
        return Call(function.address, (*(0,) * NUM_STEP_ARGUMENTS, *own))


def leaf_name(layer: int, name: str) -> str:
    """Of a linear layer in the model."""
    return f"model.layers.{layer}.{name}"


class StepProgram:
    """The program of steps of some rows.

    Args:
        decoder: What it computes.
        num_rows: Of a step.
        calls: Of the decoder, for so many rows.
        adapters: Whose calls are among these; kept, because the calls point into them.
    """

    def __init__(
        self,
        decoder: WrittenDecoder,
        num_rows: int,
        calls: Sequence[Call],
        adapters: WrittenAdapters,
    ) -> None:
        from martlet.models.compiled.attention import attend
        from martlet.models.compiled.largest import find_largest
        from martlet.models.compiled.low_rank import add_low_rank
        from martlet.models.compiled.program import Program
        from martlet.models.compiled.rotary import rotate_into_pool

        self._decoder, self._adapters = decoder, adapters
        self._program = Program(calls)
        is_rounded = decoder.is_pool_rounded
        rotations, self._attentions, self._low_ranks, self._searches = (
            [index for index, call in enumerate(calls) if call.function == function.address]
            for function in (
                rotate_into_pool(is_rounded=is_rounded),
                attend(is_rounded=is_rounded),
                add_low_rank(),
                find_largest(),
            )
        )
        self._fill_in(rotations, (*decoder.angles.addresses, decoder.slots.ctypes.data))
        # To make a view takes as long as to draw a token.
        self._head = decoder.head if self._searches else None
        self._logits = None if self._head is None else self._head.logits(num_rows)

    def run(
        self, packed: PackedChunks, adapted: Part | None, *, finds_likeliest: bool
    ) -> Logits | None:
        """Computes a step.

        Args:
            adapted: The rows, by their adapters; None if none has one.
            finds_likeliest: Whether the most likely tokens are wanted too.

        Returns:
            The logits, which the next step overwrites; None if the program is without the head.
        """
        decoder = self._decoder
        decoder.angles.look_up(packed.positions)
        decoder.slots[: packed.num_rows] = packed.slots
        tiles = TokenTiles(packed.stretches, decoder.num_groups)
        first_keys = np.zeros_like(tiles.positions)
        self._fill_in(self._attentions, tiles.arguments(first_keys))
        num_searched = packed.num_rows if finds_likeliest else 0
        self._fill_in(self._searches, (num_searched,))
        if adapted is not None:
            assert adapted.sorted_rows is not None
            assert adapted.ends is not None
            self._fill_in(self._low_ranks, rows_of(adapted.sorted_rows, adapted.ends))
        self._program.run()
        if self._head is None or self._logits is None:
            return None
        found = Likeliest(*self._head.likeliest(num_searched)) if finds_likeliest else None
        return Logits(self._logits, found)

    def _fill_in(self, calls: Sequence[int], first_arguments: tuple[int, ...]) -> None:
        self._program.arguments[calls, 1 : 1 + len(first_arguments)] = first_arguments
