"""The outputs of a panel, of as many rows as go through at once: what a thread takes at a time."""

from collections.abc import Mapping
from typing import NamedTuple, Self

from llvmlite import ir

from martlet.models.machine_code.emit import (
    POINTER,
    WORD,
    Builder,
    Value,
    allocate,
    at,
    ceil_div,
    larger,
    repeat,
    smaller,
)
from martlet.models.machine_code.first_tile import MOST_ROWS, write_first_tiles
from martlet.models.machine_code.item import Groups, Item, Memory, Tokens, Weights
from martlet.models.machine_code.kind import PANEL, ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.one_row import OneRow
from martlet.models.machine_code.outputs import PANEL_BYTES, Outputs, output_bytes
from martlet.models.machine_code.tile import write_tile

_ROWS_OF_TILES = (6, 4, 2, 1)
"""As many as registers hold the sums of, and smaller ones for the rest."""
_UNPACKED_BYTES = 160 * 1024
"""Of weights of four bits that are kept as bytes at a time: the cache's second level has room for
them, and for tokens."""


class Tiles(NamedTuple):
    """The functions of all tiles of a kind."""

    by_rows: Mapping[int, ir.Function]
    first: ir.Function | None
    """What makes bytes of weights of four bits."""

    @classmethod
    def written(cls, module: ir.Module, kind: ProductKind) -> Self:
        """Writes them."""
        by_rows = {count: write_tile(module, kind, count) for count in _ROWS_OF_TILES}
        if kind.part_size is None:
            return cls(by_rows, None)
        return cls(by_rows, write_first_tiles(module, kind, (MOST_ROWS, *_ROWS_OF_TILES)))

    def declared(self, module: ir.Module) -> "Tiles":
        """The same, to be called in a module that is compiled later."""

        def again(function: ir.Function) -> ir.Function:
            return ir.Function(module, function.function_type, function.name)

        by_rows = {count: again(tile) for count, tile in self.by_rows.items()}
        return Tiles(by_rows, again(self.first) if self.first else None)


class Panel:
    """Writes the code of an item.

    Args:
        module: Where it is written to.
        kind: Of the product.
        tiles: That can be called there.
        num_layers: One, or two: a gate and what it is for, of the same inputs and outputs.
    """

    def __init__(
        self, module: ir.Module, kind: ProductKind, tiles: Tiles, *, num_layers: int = 1
    ) -> None:
        self._kind, self._tiles, self._num_layers = kind, tiles, num_layers
        self._outputs = Outputs(module, num_layers, has_zeros=kind.tokens.has_zeros)

    def prepare(self, b: Builder, *parameters: Value) -> list[Value]:
        """Memory of a thread's own, see `Memory`, and the parameters."""
        width, num_groups = parameters[-3], parameters[-1]
        if self._tiles.first is None:
            groups_at_once, unpacked_bytes = num_groups, WORD(0)
        else:
            group_bytes = b.mul(b.udiv(width, num_groups), WORD(self._num_layers * PANEL))
            fitting = larger(b, b.udiv(WORD(_UNPACKED_BYTES), group_bytes), WORD(1))
            groups_at_once = smaller(b, fitting, num_groups)
            unpacked_bytes = b.mul(groups_at_once, group_bytes)
        are_all = b.icmp_unsigned("==", groups_at_once, num_groups)
        row_bytes = b.select(are_all, WORD(0), WORD(PANEL_BYTES))
        num_rows = b.select(are_all, WORD(MOST_ROWS), WORD(ROWS_AT_ONCE))
        layer_bytes = b.mul(num_rows, WORD(PANEL_BYTES))
        totals = allocate(b, b.mul(layer_bytes, WORD(self._num_layers)))
        unpacked = allocate(b, unpacked_bytes)
        return [totals, layer_bytes, row_bytes, unpacked, groups_at_once, *parameters]

    def item(self, b: Builder, number: Value, following: Value, *values: Value) -> None:
        """Writes it.

        Args:
            following: The number of the item whose weights memory is asked for meanwhile.
            values: What `prepare` returned, of the parameters of `product`.
        """
        num_own = len(Memory._fields)
        memory, (x, scales, offsets, *others) = Memory(*values[:num_own]), values[num_own:]
        *of_layers, out, way, num_rows, width, num_outputs, num_groups = others
        layers = [Weights(*of_layers[first : first + 4]) for first in range(0, len(of_layers), 4)]
        num_turns = ceil_div(b, num_rows, ROWS_AT_ONCE)
        first_row = b.mul(b.urem(number, num_turns), WORD(ROWS_AT_ONCE))
        last_panel = b.sub(ceil_div(b, num_outputs, PANEL), WORD(1))
        item = Item(
            b=b,
            kind=self._kind,
            tokens=Tokens(x, scales, offsets, num_rows, b.udiv(width, num_groups)),
            layers=layers,
            memory=memory,
            panel=b.udiv(number, num_turns),
            next_panel=smaller(b, b.udiv(following, num_turns), last_panel),
            num_groups=num_groups,
            first_row=first_row,
            rows=smaller(b, b.sub(num_rows, first_row), WORD(ROWS_AT_ONCE)),
            tiles=self._tiles.by_rows,
            first_tile=self._tiles.first,
        )
        self._compute(b, item, out, way, num_outputs)

    def _compute(self, b: Builder, item: Item, out: Value, way: Value, num_outputs: Value) -> None:
        first_output = b.mul(item.panel, WORD(PANEL))
        rest = b.sub(num_outputs, first_output)
        ends_bytes = self._outputs.ends_bytes
        ends = [at(b, each.ends, b.mul(item.panel, WORD(ends_bytes))) for each in item.layers]

        def write(first: Value, rows: Value) -> None:
            row = b.add(item.first_row, first)
            place = b.add(b.mul(row, num_outputs), first_output)
            to = at(b, out, b.mul(place, output_bytes(b, way)))
            totals = [item.totals(layer, first) for layer in range(self._num_layers)]
            layers = list(zip(totals, ends, strict=True))
            corrections = item.tokens.corrections(b, row)
            self._outputs.write(b, layers, corrections, to, way, rows, num_outputs, rest)

        at_once, num_groups = item.memory.groups_at_once, item.num_groups

        def some_groups(number: Value, _: list[Value]) -> list[Value]:
            first = b.mul(number, at_once)
            count = smaller(b, at_once, b.sub(num_groups, first))
            are_last = b.icmp_unsigned("==", b.add(first, count), num_groups)
            item.multiply(Groups(first, count, are_last), write)
            return []

        num_rounds = b.udiv(b.add(num_groups, b.sub(at_once, WORD(1))), at_once)
        repeat(b, num_rounds, [], some_groups)

    def one_row(self, b: Builder, panel: Value, sums: Value, row: OneRow, *values: Value) -> None:
        """Writes an item of one row, whose parts have sums; the others are as in `item`."""
        num_own = len(Memory._fields)
        memory, (x, scales, _, *others) = Memory(*values[:num_own]), values[num_own:]
        stored, _, codes, ends, out, way, _, width, num_outputs, num_groups = others
        panel_bytes = b.udiv(b.mul(width, WORD(PANEL)), WORD(self._kind.weights_of_byte))
        num_codes = b.udiv(b.mul(width, WORD(PANEL)), WORD(self._kind.inputs_of_code))
        row.panel(
            b,
            *(x, sums, scales),
            at(b, stored, b.mul(panel, panel_bytes)),
            at(b, codes, b.mul(panel, num_codes)),
            *(memory.totals, b.udiv(width, num_groups), num_groups),
        )
        first_output = b.mul(panel, WORD(PANEL))
        to = at(b, out, b.mul(first_output, output_bytes(b, way)))
        layer = (memory.totals, at(b, ends, b.mul(panel, WORD(self._outputs.ends_bytes))))
        sizes = (WORD(1), num_outputs, b.sub(num_outputs, first_output))
        nothing = POINTER(None)  # A kind with zeros has no product of one row.
        self._outputs.write(b, [layer], (nothing, nothing), to, way, *sizes)
