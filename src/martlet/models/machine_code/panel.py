"""The outputs of a panel, of as many rows as go through at once: what a thread takes at a time."""

from typing import NamedTuple

from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLOATS,
    INTS,
    VECTOR_BYTES,
    WORD,
    Builder,
    Value,
    advance,
    allocate,
    at,
    ceil_div,
    each,
    repeat,
    smaller,
)
from martlet.models.machine_code.first_tile import MOST_ROWS, write_first_tiles
from martlet.models.machine_code.kind import PANEL, ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.outputs import PANEL_BYTES, Outputs
from martlet.models.machine_code.tile import COLUMNS, write_tile

_ROWS_OF_TILES = (6, 4, 2, 1)
"""As many as registers hold the sums of, and smaller ones for the rest."""
_FEW_ROWS = 16
"""Memory has enough to do with a panel of eight bits: it is not asked for another."""
_QUARTERS = 4


class Weights(NamedTuple):
    """The addresses of a layer's weights, by the parameters of `product`."""

    values: Value
    group_scales: Value
    codes: Value
    ends: Value


class Tokens(NamedTuple):
    """The rows of an item."""

    values: Value
    scales: Value
    offsets: Value
    num_rows: Value
    """Of all items."""
    first_row: Value
    rows: Value
    """Their number."""
    group_size: Value
    num_groups: Value

    def of_group(self, b: Builder, index: Value) -> tuple[Value, Value, Value]:
        """The addresses of the values, the scales and the offsets of a group's first row."""
        row = b.add(b.mul(index, self.num_rows), self.first_row)
        return (
            at(b, self.values, b.mul(row, self.group_size)),
            at(b, self.scales, b.mul(row, WORD(4))),
            at(b, self.offsets, b.mul(row, WORD(4))),
        )


class Panel:
    """Writes the code of an item.

    Args:
        module: Where its functions are written to.
        kind: Of the product.
        num_layers: One, or two: a gate and what it is for, of the same inputs and outputs.
    """

    def __init__(self, module: ir.Module, kind: ProductKind, *, num_layers: int = 1) -> None:
        self._kind, self._num_layers = kind, num_layers
        self._tiles = {count: write_tile(module, kind, count) for count in _ROWS_OF_TILES}
        self._first_tile = (
            write_first_tiles(module, kind, (MOST_ROWS, *_ROWS_OF_TILES))
            if kind.part_size
            else None
        )
        self._outputs = Outputs(module, kind.dtype)

    def prepare(self, b: Builder, *parameters: Value) -> list[Value]:
        """Memory of a thread's own, for totals and for the bytes of a group, and the parameters."""
        width, num_groups = parameters[-3], parameters[-1]
        totals = allocate(b, WORD(self._num_layers * ROWS_AT_ONCE * PANEL_BYTES))
        group_bytes = b.mul(b.udiv(width, num_groups), WORD(PANEL))
        unpacked = allocate(b, group_bytes) if self._first_tile else totals
        return [totals, unpacked, *parameters]

    def item(
        self,
        b: Builder,
        number: Value,
        following: Value,
        totals: Value,
        unpacked: Value,
        values: Value,
        scales: Value,
        offsets: Value,
        *others: Value,
    ) -> None:
        """Writes it; behind the memory that `prepare` gave are the parameters of `product`.

        Args:
            following: The number of the item whose weights memory is asked for meanwhile.
        """
        *of_layers, out, num_rows, width, num_outputs, num_groups = others
        layers = [Weights(*of_layers[start : start + 4]) for start in range(0, len(of_layers), 4)]
        num_turns = ceil_div(b, num_rows, ROWS_AT_ONCE)
        first_row = b.mul(b.urem(number, num_turns), WORD(ROWS_AT_ONCE))
        rows = smaller(b, b.sub(num_rows, first_row), WORD(ROWS_AT_ONCE))
        panel = b.udiv(number, num_turns)
        last_panel = b.sub(ceil_div(b, num_outputs, PANEL), WORD(1))
        next_panel = smaller(b, b.udiv(following, num_turns), last_panel)
        size = b.udiv(width, num_groups)
        tokens = Tokens(values, scales, offsets, num_rows, first_row, rows, size, num_groups)
        of_outputs = []
        for index, weights in enumerate(layers):
            own = at(b, totals, WORD(index * ROWS_AT_ONCE * PANEL_BYTES))
            is_last = index + 1 == len(layers)
            later = (layers[0], next_panel) if is_last else (layers[index + 1], panel)
            self._sum(b, tokens, (weights, panel), later, own, unpacked)
            of_outputs.append((own, at(b, weights.ends, b.mul(panel, WORD(2 * PANEL_BYTES)))))
        first = b.mul(panel, WORD(PANEL))
        place = b.add(b.mul(first_row, num_outputs), first)
        to = at(b, out, b.mul(place, WORD(self._kind.dtype.itemsize)))
        self._outputs.write(b, of_outputs, to, rows, num_outputs, b.sub(num_outputs, first))

    def _sum(
        self,
        b: Builder,
        tokens: Tokens,
        here: tuple[Weights, Value],
        later: tuple[Weights, Value],
        totals: Value,
        unpacked: Value,
    ) -> None:
        """Computes the totals of a layer's panel, group by group.

        Args:
            here: The layer's weights, and the number of the panel.
            later: Of the panel that memory is asked for meanwhile.
        """
        (weights, panel), (following, next_panel) = here, later
        size, num_groups, rows = tokens.group_size, tokens.num_groups, tokens.rows
        group_bytes = b.udiv(b.mul(size, WORD(PANEL)), WORD(self._kind.weights_of_byte))
        self._begin(b, totals, rows)

        def group(index: Value, _: list[Value]) -> list[Value]:
            own = b.add(b.mul(panel, num_groups), index)
            is_last = b.icmp_unsigned("==", b.add(index, WORD(1)), num_groups)
            values = b.select(is_last, following.values, weights.values)
            ahead = b.select(is_last, b.mul(next_panel, num_groups), b.add(own, WORD(1)))
            asked = at(b, values, b.mul(ahead, group_bytes))
            of_rows = tokens.of_group(b, index)
            done, bytes_ = WORD(0), at(b, weights.values, b.mul(own, group_bytes))
            group_scales = at(b, weights.group_scales, b.mul(own, WORD(PANEL * 2)))
            if self._first_tile is None:
                is_few = b.icmp_unsigned("<=", tokens.num_rows, WORD(_FEW_ROWS))
                asked = b.select(is_few, bytes_, asked)
            else:
                num_codes = b.udiv(b.mul(size, WORD(PANEL)), WORD(self._kind.inputs_of_code))
                of_group = at(b, weights.codes, b.mul(own, num_codes))
                parameters = (bytes_, group_scales, of_group, unpacked, totals, size, asked)
                codes = b.select(is_last, following.codes, weights.codes)
                asked_codes = at(b, codes, b.mul(ahead, num_codes))
                done = b.call(self._first_tile, [rows, *of_rows, *parameters, asked_codes])
                bytes_ = unpacked
            self._multiply(b, done, rows, of_rows, (bytes_, group_scales), totals, size, asked)
            return []

        repeat(b, num_groups, [], group)

    def _begin(self, b: Builder, totals: Value, rows: Value) -> None:
        """Totals begin with zeros."""

        def vector(number: Value, _: list[Value]) -> list[Value]:
            zeros = b.bitcast(each(INTS, 0), FLOATS)
            b.store(zeros, at(b, totals, b.mul(number, WORD(VECTOR_BYTES))), align=VECTOR_BYTES)
            return []

        repeat(b, b.mul(rows, WORD(len(COLUMNS))), [], vector)

    def _multiply(
        self,
        b: Builder,
        row: Value,
        rows: Value,
        tokens: tuple[Value, Value, Value],
        weights: tuple[Value, Value],
        totals: Value,
        size: Value,
        ahead: Value,
    ) -> None:
        """Adds a group's products to the totals of the rows from one on, tile by tile.

        Each tile asks for a quarter of the group ahead, in eight bits.
        """
        values, scales, offsets = tokens
        quarter = b.mul(size, WORD(PANEL // _QUARTERS))
        for count, tile in self._tiles.items():

            def some(first: Value, tile: ir.Function = tile) -> None:
                of_rows = (
                    at(b, values, b.mul(first, size)),
                    at(b, scales, b.mul(first, WORD(4))),
                    at(b, offsets, b.mul(first, WORD(4))),
                )
                to = at(b, totals, b.mul(first, WORD(PANEL_BYTES)))
                part = smaller(b, b.udiv(first, WORD(_ROWS_OF_TILES[0])), WORD(_QUARTERS - 1))
                asked = at(b, ahead, b.mul(part, quarter))
                b.call(tile, [*of_rows, *weights, to, size, asked])

            row = advance(b, row, rows, count, some)
