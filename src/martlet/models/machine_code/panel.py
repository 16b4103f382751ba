"""The outputs of a panel, of as many rows as go through at once: what a thread takes at a time."""

import torch
from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLOATS,
    HALVES,
    INT,
    INTS,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    WORDS,
    Builder,
    Value,
    advance,
    allocate,
    at,
    broadcast,
    ceil_div,
    each,
    load,
    repeat,
    smaller,
    to_bf16,
)
from martlet.models.machine_code.first_tile import MOST_ROWS, write_first_tiles
from martlet.models.machine_code.kind import PANEL, ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.tile import COLUMNS, write_tile
from martlet.models.machine_code.worker import known_function

_ROWS_OF_TILES = (6, 4, 2, 1)
"""As many as registers hold the sums of, and smaller ones for the rest."""
_FEW_ROWS = 16
"""Memory has enough to do with a panel of eight bits: it is not asked for another."""
_QUARTERS = 4
_PANEL_BYTES = PANEL * 4
"""Of a panel's numbers of 32 bits."""


class Panel:
    """Writes the code of an item.

    Args:
        module: Where its functions are written to.
        kind: Of the product.
    """

    def __init__(self, module: ir.Module, kind: ProductKind) -> None:
        self._kind = kind
        self._tiles = {count: write_tile(module, kind, count) for count in _ROWS_OF_TILES}
        self._first_tile = (
            write_first_tiles(module, kind, (MOST_ROWS, *_ROWS_OF_TILES))
            if kind.part_size
            else None
        )
        is_bf16 = kind.dtype == torch.bfloat16
        stored, suffix = (HALVES, "v16i16") if is_bf16 else (FLOATS, "v16f32")
        parameters = [stored, POINTER, INT, ir.VectorType(ir.IntType(1), LANES)]
        name = f"llvm.masked.store.{suffix}.p0"
        self._store = known_function(module, name, ir.VoidType(), parameters)
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)

    def prepare(self, b: Builder, *parameters: Value) -> list[Value]:
        """Memory of a thread's own, for totals and for the bytes of a group, and the parameters."""
        width, num_groups = parameters[-3], parameters[-1]
        totals = allocate(b, WORD(ROWS_AT_ONCE * _PANEL_BYTES))
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
        weight: Value,
        weight_scales: Value,
        codes: Value,
        ends: Value,
        out: Value,
        num_rows: Value,
        width: Value,
        num_outputs: Value,
        num_groups: Value,
    ) -> None:
        """Writes it; behind the memory that `prepare` gave are the parameters of `product`.

        Args:
            following: The number of the item whose weights memory is asked for meanwhile.
        """
        num_turns = ceil_div(b, num_rows, ROWS_AT_ONCE)
        first_row = b.mul(b.urem(number, num_turns), WORD(ROWS_AT_ONCE))
        rows = smaller(b, b.sub(num_rows, first_row), WORD(ROWS_AT_ONCE))
        panel = b.udiv(number, num_turns)
        last_panel = b.sub(ceil_div(b, num_outputs, PANEL), WORD(1))
        next_panel = smaller(b, b.udiv(following, num_turns), last_panel)
        size = b.udiv(width, num_groups)
        group_bytes = b.udiv(b.mul(size, WORD(PANEL)), WORD(self._kind.weights_of_byte))
        self._begin(b, totals, rows)

        def group(index: Value, _: list[Value]) -> list[Value]:
            own = b.add(b.mul(panel, num_groups), index)
            of_rows = b.add(b.mul(index, num_rows), first_row)
            tokens = (
                at(b, values, b.mul(of_rows, size)),
                at(b, scales, b.mul(of_rows, WORD(4))),
                at(b, offsets, b.mul(of_rows, WORD(4))),
            )
            is_last = b.icmp_unsigned("==", b.add(index, WORD(1)), num_groups)
            later = b.select(is_last, b.mul(next_panel, num_groups), b.add(own, WORD(1)))
            done, bytes_ = WORD(0), at(b, weight, b.mul(own, group_bytes))
            group_scales = at(b, weight_scales, b.mul(own, WORD(PANEL * 2)))
            if self._first_tile is None:
                is_few = b.icmp_unsigned("<=", num_rows, WORD(_FEW_ROWS))
                later = b.select(is_few, own, later)
            ahead = at(b, weight, b.mul(later, group_bytes))
            if self._first_tile is not None:
                num_codes = b.udiv(b.mul(size, WORD(PANEL)), WORD(self._kind.inputs_of_code))
                of_group = at(b, codes, b.mul(own, num_codes))
                weights = (bytes_, group_scales, of_group, unpacked)
                asked = (ahead, at(b, codes, b.mul(later, num_codes)))
                done = b.call(self._first_tile, [rows, *tokens, *weights, totals, size, *asked])
                bytes_ = unpacked
            self._multiply(b, done, rows, tokens, (bytes_, group_scales), totals, size, ahead)
            return []

        repeat(b, num_groups, [], group)
        first = b.mul(panel, WORD(PANEL))
        place = b.add(b.mul(first_row, num_outputs), first)
        to = at(b, out, b.mul(place, WORD(self._kind.dtype.itemsize)))
        of_outputs = at(b, ends, b.mul(panel, WORD(2 * _PANEL_BYTES)))
        self._end(b, totals, of_outputs, to, rows, num_outputs, b.sub(num_outputs, first))

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
                to = at(b, totals, b.mul(first, WORD(_PANEL_BYTES)))
                part = smaller(b, b.udiv(first, WORD(_ROWS_OF_TILES[0])), WORD(_QUARTERS - 1))
                asked = at(b, ahead, b.mul(part, quarter))
                b.call(tile, [*of_rows, *weights, to, size, asked])

            row = advance(b, row, rows, count, some)

    def _end(
        self,
        b: Builder,
        totals: Value,
        ends: Value,
        out: Value,
        rows: Value,
        num_outputs: Value,
        rest: Value,
    ) -> None:
        """Writes those outputs that there are; the last panel may have fewer."""
        is_whole = b.icmp_unsigned(">=", rest, WORD(PANEL))
        with b.if_else(is_whole) as (whole, part):
            with whole:
                self._write(b, totals, ends, out, rows, num_outputs, None)
            with part:
                self._write(b, totals, ends, out, rows, num_outputs, broadcast(b, rest))

    def _write(
        self,
        b: Builder,
        totals: Value,
        ends: Value,
        out: Value,
        rows: Value,
        num_outputs: Value,
        count: Value | None,
    ) -> None:
        """Writes so many outputs of each row, or all: stores with a mask take far longer.

        Totals are multiplied with the scales of the outputs, and the bias is added.
        """
        itemsize = self._kind.dtype.itemsize

        def row(number: Value, _: list[Value]) -> list[Value]:
            source = at(b, totals, b.mul(number, WORD(_PANEL_BYTES)))
            target = at(b, out, b.mul(b.mul(number, num_outputs), WORD(itemsize)))
            for column in COLUMNS:
                place = WORD(VECTOR_BYTES * column)
                total = load(b, FLOATS, source, place, align=VECTOR_BYTES)
                scales = load(b, FLOATS, ends, place)
                bias = load(b, FLOATS, at(b, ends, place), WORD(_PANEL_BYTES))
                total = b.call(self._fma, [total, scales, bias])
                value = to_bf16(b, total) if itemsize == 2 else total
                to = at(b, target, WORD(LANES * column * itemsize))
                if count is None:
                    b.store(value, to, align=itemsize)
                else:
                    lanes = ir.Constant(WORDS, [LANES * column + lane for lane in range(LANES)])
                    is_there = b.icmp_unsigned("<", lanes, count)
                    b.call(self._store, [value, to, INT(1), is_there])
            return []

        repeat(b, rows, [], row)
