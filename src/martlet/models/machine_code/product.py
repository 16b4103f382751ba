"""The product of rounded tokens with weights of eight or four bits, as a compiled function.

Whole numbers are summed exactly by the instruction for neural networks that AVX-512 has (VNNI),
and what follows is computed in the same order for each row: it comes out the same to the last bit,
whoever its neighbours are. Weights of four bits become bytes group by group, in the first level of
the cache, once for all rows that meet them there.

Weights lie in panels of outputs, within a panel in the order in which they are read:

    8 bits   [panel, K / 4, output, 4]
    4 bits   [panel, K / 8, output, 4]; a byte holds an input and, higher, the fourth after it

The parameters of `product`, by the shapes of `linear/tokens`, for N outputs in P panels:

    values, scales, offsets       the tokens
    weight                        its values plus 128 or, of four bits, as they are stored
    weight_scales                 [P, G, output], fp32 or, of four bits, bf16
    multipliers                   [P, parts, output], uint8; read for four bits: the multiplier of
                                  a part's weights and, higher, the value that stands for 0
    bias                          [P, output], fp32
    out                           [T, N], bf16 or fp32, written
    T, K, N, G
"""

from functools import cache

import torch
from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLOATS,
    HALVES,
    INT,
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
    load,
    repeat,
    smaller,
    to_bf16,
)
from martlet.models.machine_code.kind import PANEL, ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.tile import COLUMNS, write_tile
from martlet.models.machine_code.token_rounding import Rounding
from martlet.models.machine_code.unpack import write_unpacking
from martlet.models.machine_code.worker import Worker, known_function

_PARAMETERS = [POINTER] * 8 + [WORD] * 4
_ROWS_OF_TILES = (6, 4, 2, 1)
"""As many as registers hold the sums of, and smaller ones for the rest."""
_PANEL_BYTES = PANEL * 4
"""Of a panel's numbers of 32 bits."""


@cache
def product(kind: ProductKind) -> Worker:
    """The function for a kind."""
    module = ir.Module("product")
    panel = _Panel(module, kind)
    return Worker(module, _PARAMETERS, panel.item, panel.prepare)


@cache
def product_of_few(kind: ProductKind) -> Worker:
    """The same for tokens that are not rounded yet, in the type of the output.

    Each thread rounds all of them for itself, which for a few takes less time than another call.
    In the places of the values, scales and offsets are the tokens, the size of a group and the
    middle.
    """
    module = ir.Module("product_of_few")
    rounding = Rounding(module, kind.dtype)
    panel = _Panel(module, kind)

    def prepare(
        b: Builder, x: Value, group_size: Value, middle: Value, *others: Value
    ) -> list[Value]:
        num_rows, width, _, num_groups = others[-4:]
        scale_bytes = b.mul(b.mul(num_rows, num_groups), WORD(4))
        sizes = (b.mul(num_rows, width), scale_bytes, scale_bytes)
        tokens = [allocate(b, num_bytes) for num_bytes in sizes]
        rounding.rows(
            b, WORD(0), num_rows, x, *tokens, width=width, group_size=group_size, middle=middle
        )
        return panel.prepare(b, *tokens, *others)

    return Worker(module, [POINTER, WORD, WORD, *_PARAMETERS[3:]], panel.item, prepare)


class _Panel:
    """Writes the code of an item: the outputs of a panel, of as many rows as go through at once."""

    def __init__(self, module: ir.Module, kind: ProductKind) -> None:
        self._kind = kind
        self._tiles = {
            num_rows: write_tile(module, kind, num_rows) for num_rows in _ROWS_OF_TILES
        }
        self._unpack = write_unpacking(module, kind.part_size) if kind.part_size else None
        stored, suffix = (
            (HALVES, "v16i16") if kind.dtype == torch.bfloat16 else (FLOATS, "v16f32")
        )
        parameters = [stored, POINTER, INT, ir.VectorType(ir.IntType(1), LANES)]
        name = f"llvm.masked.store.{suffix}.p0"
        self._store = known_function(module, name, ir.VoidType(), parameters)

    def prepare(self, b: Builder, *parameters: Value) -> list[Value]:
        """Memory of a thread's own for totals and for a group's bytes, before the parameters."""
        totals = allocate(b, WORD(ROWS_AT_ONCE * _PANEL_BYTES))
        size = b.udiv(parameters[-3], parameters[-1])
        unpacked = allocate(b, b.mul(size, WORD(PANEL))) if self._unpack else totals
        return [totals, unpacked, *parameters]

    def item(
        self,
        b: Builder,
        number: Value,
        totals: Value,
        unpacked: Value,
        values: Value,
        scales: Value,
        offsets: Value,
        weight: Value,
        weight_scales: Value,
        multipliers: Value,
        bias: Value,
        out: Value,
        num_rows: Value,
        width: Value,
        num_outputs: Value,
        num_groups: Value,
    ) -> None:
        """Writes the code; the parameters are those of `product`."""
        kind = self._kind
        num_parts = ceil_div(b, num_rows, ROWS_AT_ONCE)
        first_row = b.mul(b.urem(number, num_parts), WORD(ROWS_AT_ONCE))
        rows = smaller(b, b.sub(num_rows, first_row), WORD(ROWS_AT_ONCE))
        panel = b.udiv(number, num_parts)
        size = b.udiv(width, num_groups)
        self._begin(b, totals, at(b, bias, b.mul(panel, WORD(_PANEL_BYTES))), rows)

        def group(index: Value, _: list[Value]) -> list[Value]:
            group_of_panel = b.add(b.mul(panel, num_groups), index)
            first = b.mul(group_of_panel, b.mul(size, WORD(PANEL)))
            weights = at(b, weight, b.udiv(first, WORD(8 // kind.bits)))
            if self._unpack:
                assert kind.part_size is not None
                parts = b.udiv(size, WORD(kind.part_size))
                factors = b.mul(group_of_panel, b.mul(parts, WORD(PANEL)))
                b.call(self._unpack, [weights, at(b, multipliers, factors), unpacked, parts])
                weights = unpacked
            of_panel = b.mul(group_of_panel, WORD(PANEL * (4 if kind.bits == 8 else 2)))
            of_rows = b.add(b.mul(first_row, num_groups), index)
            self._multiply(
                b,
                rows,
                at(b, values, b.add(b.mul(first_row, width), b.mul(index, size))),
                at(b, scales, b.mul(of_rows, WORD(4))),
                at(b, offsets, b.mul(of_rows, WORD(4))),
                (weights, at(b, weight_scales, of_panel)),
                totals,
                (width, num_groups, size),
            )
            return []

        repeat(b, num_groups, [], group)
        first = b.mul(panel, WORD(PANEL))
        index = b.add(b.mul(first_row, num_outputs), first)
        to = at(b, out, b.mul(index, WORD(kind.dtype.itemsize)))
        self._end(b, totals, to, rows, num_outputs, b.sub(num_outputs, first))

    def _begin(self, b: Builder, totals: Value, bias: Value, rows: Value) -> None:
        """Totals begin with the bias."""
        biases = [load(b, FLOATS, bias, WORD(VECTOR_BYTES * column)) for column in COLUMNS]

        def row(number: Value, _: list[Value]) -> list[Value]:
            to = at(b, totals, b.mul(number, WORD(_PANEL_BYTES)))
            for column, each in enumerate(biases):
                b.store(each, at(b, to, WORD(VECTOR_BYTES * column)), align=VECTOR_BYTES)
            return []

        repeat(b, rows, [], row)

    def _multiply(
        self,
        b: Builder,
        rows: Value,
        values: Value,
        scales: Value,
        offsets: Value,
        of_panel: tuple[Value, Value],
        totals: Value,
        sizes: tuple[Value, Value, Value],
    ) -> None:
        """Adds a group's products to the totals, tile by tile."""
        width, num_groups, _ = sizes
        row = WORD(0)
        for count, tile in self._tiles.items():

            def some(first: Value, tile: ir.Function = tile) -> None:
                of_row = b.mul(b.mul(first, num_groups), WORD(4))
                of_rows = (
                    at(b, values, b.mul(first, width)),
                    at(b, scales, of_row),
                    at(b, offsets, of_row),
                )
                to = at(b, totals, b.mul(first, WORD(_PANEL_BYTES)))
                b.call(tile, [*of_rows, *of_panel, to, *sizes])

            row = advance(b, row, rows, count, some)

    def _end(
        self,
        b: Builder,
        totals: Value,
        out: Value,
        rows: Value,
        num_outputs: Value,
        missing: Value,
    ) -> None:
        """Writes those outputs that there are; the last panel may have fewer."""
        itemsize = self._kind.dtype.itemsize
        lanes = [ir.Constant(WORDS, [LANES * c + lane for lane in range(LANES)]) for c in COLUMNS]
        is_there = [b.icmp_unsigned("<", lane, broadcast(b, missing)) for lane in lanes]

        def row(number: Value, _: list[Value]) -> list[Value]:
            source = at(b, totals, b.mul(number, WORD(_PANEL_BYTES)))
            target = at(b, out, b.mul(b.mul(number, num_outputs), WORD(itemsize)))
            for column, mask in enumerate(is_there):
                place = WORD(VECTOR_BYTES * column)
                total = load(b, FLOATS, source, place, align=VECTOR_BYTES)
                value = to_bf16(b, total) if itemsize == 2 else total
                to = at(b, target, WORD(LANES * column * itemsize))
                b.call(self._store, [value, to, INT(1), mask])
            return []

        repeat(b, rows, [], row)
