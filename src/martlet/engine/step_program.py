"""A step as one program: the calls of all layers, and what in them changes.

Behind the last attention only the rows whose logits are wanted are of use. Unless these are all
rows in their order, they are gathered there, and the others end.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

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
        max_wanted: Of those whose logits are wanted.
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
        max_wanted: int,
    ) -> None:
        config = decoder.config
        shape = {"num_heads": config.num_attention_heads, "dim": config.head_dim}
        self.places = RowPlaces(config, max_rows)
        self.wanted_places = RowPlaces(config, max_wanted)
        """Where gathered rows go on."""
        self.angles = AngleTable(decoder.model.rotary_emb, config.head_dim, max_rows)
        self.slots = np.empty(max_rows, dtype=np.int64)
        """`[M]`, where the keys and values of the rows go."""
        self._first_keys = np.zeros(max_rows, dtype=np.int64)
        self.first_keys = self._first_keys.ctypes.data
        """The address of the first position that each row sees: 0 for all of them."""
        self.wanted = np.empty(max_wanted, dtype=np.int64)
        """The numbers of the rows that are gathered."""
        self.head = None if head is None else WrittenHead(head, max_wanted)
        self.num_groups = config.num_attention_heads // config.num_key_value_heads
        self._layers, self._pools, self._dim = layers, pools, config.head_dim
        self.is_pool_rounded = pools[0].is_rounded
        self._attention = [
            LayerAttention(pool, scaling=config.head_dim**-0.5, **shape) for pool in pools
        ]
        self._next_norms = [*(layer.input_norm for layer in layers[1:]), norm]

    def calls(
        self, num_rows: int, num_wanted: int | None, adapters: WrittenAdapters, *, with_head: bool
    ) -> list[Call] | None:
        """From `places.rows` to `results`, and with the head to its logits, if it can.

        Args:
            num_wanted: The rows that are gathered; None if all are wanted in their order.

        Returns:
            None if so many rows are not multiplied by compiled functions.
        """
        places = self.places
        calls = [self._layers[0].input_norm.call(places.x, places.normed, num_rows, is_wide=True)]
        last = len(self._layers) - 1
        for index, layer in enumerate(self._layers):

            def adapt(name: str, *how: Any, index: int = index) -> list[Call]:
                return adapters.calls(leaf_name(index, name), *how)

            before = layer.before_attention(places, num_rows, self._pools[index], adapt)
            if before is None:
                return None
            calls += [*before, self._attention_call(index)]
            if index == last and num_wanted is not None:
                calls += places.gathering(self.wanted_places, self.wanted.ctypes.data, num_wanted)
                places, num_rows = self.wanted_places, num_wanted
            after = layer.after_attention(places, num_rows, adapt)
            if after is None:
                return None
            norm = self._next_norms[index]
            calls += after
            calls += [norm.call_after_adding(places.x, places.added, places.normed, num_rows)]
        if with_head and self.head is not None:
            calls += self.head.calls(places.normed, num_rows, places.scratch) or ()
        return calls

    def results(self, num_rows: int, num_wanted: int | None) -> Tensor:
        """What `calls` leave of the wanted rows, `[N, D]`; the next step overwrites it."""
        if num_wanted is None:
            return self.places.results[:num_rows]
        return self.wanted_places.results[:num_wanted]

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
        num_rows: Whose logits are wanted.
        calls: Of the decoder, for these.
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
        from martlet.models.compiled.gather import gather_rows
        from martlet.models.compiled.largest import find_largest
        from martlet.models.compiled.low_rank import add_low_rank
        from martlet.models.compiled.program import Program
        from martlet.models.compiled.rotary import rotate_into_pool

        self._decoder, self._adapters = decoder, adapters
        self._program = Program(calls)
        is_rounded = decoder.is_pool_rounded
        rotations, self._attentions, low_ranks, self._searches, gathering = (
            np.array([i for i, call in enumerate(calls) if call.function == function.address], int)
            for function in (
                rotate_into_pool(is_rounded=is_rounded),
                attend(is_rounded=is_rounded),
                add_low_rank(),
                find_largest(),
                gather_rows(),
            )
        )
        end = gathering[0] if len(gathering) else len(calls)
        self._low_ranks, self._low_ranks_of_wanted = (
            low_ranks[low_ranks < end],
            low_ranks[low_ranks > end],
        )
        self._fill_in(rotations, (*decoder.angles.addresses, decoder.slots.ctypes.data))
        # To make a view takes as long as to draw a token.
        self._head = decoder.head if len(self._searches) else None
        self._logits = None if self._head is None else self._head.logits(num_rows)

    def run(
        self, packed: PackedChunks, adapted: Sequence[Part], *, finds_likeliest: bool
    ) -> Logits | None:
        """Computes a step.

        Args:
            adapted: The rows by their adapters, and those whose logits are wanted; none if no row
                has one.
            finds_likeliest: Whether the most likely tokens are wanted too.

        Returns:
            The logits, which the next step overwrites; None if the program is without the head.
        """
        decoder = self._decoder
        decoder.angles.look_up(packed.positions)
        decoder.slots[: packed.num_rows] = packed.slots
        num_wanted = len(packed.logit_rows)
        decoder.wanted[:num_wanted] = packed.logit_rows
        tiles = TokenTiles(packed.stretches, decoder.num_groups)
        self._fill_in(self._attentions, tiles.arguments(decoder.first_keys))
        num_searched = num_wanted if finds_likeliest else 0
        self._fill_in(self._searches, (num_searched,))
        for calls, part in zip((self._low_ranks, self._low_ranks_of_wanted), adapted, strict=False):
            assert part.sorted_rows is not None
            assert part.ends is not None
            self._fill_in(calls, rows_of(part.sorted_rows, part.ends))
        self._program.run()
        if self._head is None or self._logits is None:
            return None
        found = Likeliest(*self._head.likeliest(num_searched)) if finds_likeliest else None
        return Logits(self._logits, found)

    def _fill_in(self, calls: npt.NDArray[np.int64], first_arguments: tuple[int, ...]) -> None:
        self._program.arguments[calls, 1 : 1 + len(first_arguments)] = first_arguments
