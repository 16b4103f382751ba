"""The product of rounded tokens with weights of eight or four bits, as a compiled function.

Whole numbers are summed exactly by the instruction for neural networks that AVX-512 has (VNNI),
and what follows is computed in the same order for each row: it comes out the same to the last bit,
whoever its neighbours are.

Weights lie in panels of outputs, within a panel in the order in which they are read:

    8 bits   [panel, K / 4, output, 4]
    4 bits   [panel, K / 8, output, 4]; a byte holds an input and, higher, the fourth after it

The parameters of `product`, by the shapes of `linear/tokens`, for N outputs in P panels:

    values, scales, offsets       the tokens
    weight                        its values plus 128 or, of four bits, as they are stored
    weight_scales                 [P, G, output], fp32 or, of four bits, bf16
    weight_zeros                  [P, G, output], uint8; read where the kind has them
    bias                          [P, output], fp32
    out                           [T, N], bf16 or fp32, written
    T, K, N, G
"""

from functools import cache

from llvmlite import ir

from martlet.models.machine_code.emit import (
    POINTER,
    WORD,
    Builder,
    Value,
    advance,
    allocate,
    at,
    ceil_div,
    smaller,
)
from martlet.models.machine_code.kind import ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.tile import PARAMETERS, write_tile
from martlet.models.machine_code.token_rounding import Rounding
from martlet.models.machine_code.worker import Worker

_ROWS_OF_TILES = (6, 4, 2, 1)
"""As many as registers hold the sums of, and smaller ones for the rest."""


@cache
def product(kind: ProductKind) -> Worker:
    """The function for a kind."""
    module = ir.Module("product")
    tiles = {num_rows: write_tile(module, kind, num_rows) for num_rows in _ROWS_OF_TILES}

    def item(b: Builder, number: Value, *parameters: Value) -> None:
        _write_item(b, kind, tiles, number, *parameters)

    return Worker(module, PARAMETERS, item)


@cache
def product_of_few(kind: ProductKind) -> Worker:
    """The same for tokens that are not rounded yet, in the type of the output.

    Each thread rounds all of them for itself, which for a few takes less time than another call.
    In the places of the values, scales and offsets are the tokens, the size of a group and the
    middle.
    """
    module = ir.Module("product_of_few")
    rounding = Rounding(module, kind.dtype)
    tiles = {num_rows: write_tile(module, kind, num_rows) for num_rows in _ROWS_OF_TILES}

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
        return [*tokens, *others]

    def item(b: Builder, number: Value, *parameters: Value) -> None:
        _write_item(b, kind, tiles, number, *parameters)

    return Worker(module, [POINTER, WORD, WORD, *PARAMETERS[3:]], item, prepare)


def _write_item(
    b: Builder,
    kind: ProductKind,
    tiles: dict[int, ir.Function],
    number: Value,
    values: Value,
    scales: Value,
    offsets: Value,
    weight: Value,
    weight_scales: Value,
    weight_zeros: Value,
    bias: Value,
    out: Value,
    num_rows: Value,
    width: Value,
    num_outputs: Value,
    num_groups: Value,
) -> None:
    num_parts = ceil_div(b, num_rows, ROWS_AT_ONCE)
    first_row = b.mul(b.urem(number, num_parts), WORD(ROWS_AT_ONCE))
    end = smaller(b, b.add(first_row, WORD(ROWS_AT_ONCE)), num_rows)
    first = b.mul(b.udiv(number, num_parts), WORD(kind.panel))
    first_group = b.mul(first, num_groups)
    of_panel = (
        at(b, weight, b.udiv(b.mul(first, width), WORD(8 // kind.bits))),
        at(b, weight_scales, b.mul(first_group, WORD(4 if kind.bits == 8 else 2))),
        at(b, weight_zeros, first_group),
        at(b, bias, b.mul(first, WORD(4))),
    )
    missing = b.sub(num_outputs, first)
    for count, tile in tiles.items():

        def rows(row: Value, tile: ir.Function = tile) -> None:
            group = b.mul(b.mul(row, num_groups), WORD(4))
            of_rows = (
                at(b, values, b.mul(row, width)),
                at(b, scales, group),
                at(b, offsets, group),
            )
            index = b.add(b.mul(row, num_outputs), first)
            to = at(b, out, b.mul(index, WORD(kind.dtype.itemsize)))
            b.call(tile, [*of_rows, *of_panel, to, missing, width, num_outputs, num_groups])

        first_row = advance(b, first_row, end, count, rows)
