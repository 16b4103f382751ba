"""What is computed of a panel for some rows, tile by tile.

A tile computes all inputs of its rows, group by group, of one layer or of two, and what comes out
is written before the next begins. So sums stay in registers, and totals in the cache's first level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llvmlite import ir

from martlet.models.machine_code.emit import WORD, Builder, Value, advance, at, repeat, smaller
from martlet.models.machine_code.kind import PANEL, ProductKind

_FEW_ROWS = 16
"""Memory has enough to do with a panel of eight bits: it is not asked for another."""
_QUARTERS = 4
_ROWS_OF_QUARTER = 6
"""Those of a tile: each of the first asks for a quarter."""
_NUMBER_BYTES = 4
_SCALE_BYTES = 2


class Tokens(NamedTuple):
    """Those of all items."""

    values: Value
    scales: Value
    offsets: Value
    num_rows: Value
    group_size: Value

    def of(self, b: Builder, row: Value, group: Value) -> tuple[Value, Value, Value]:
        """The addresses of a row's values, scale and offset of a group."""
        place = b.add(b.mul(group, self.num_rows), row)
        return (
            at(b, self.values, b.mul(place, self.group_size)),
            at(b, self.scales, b.mul(place, WORD(_NUMBER_BYTES))),
            at(b, self.offsets, b.mul(place, WORD(_NUMBER_BYTES))),
        )

    def corrections(self, b: Builder, row: Value) -> tuple[Value, Value]:
        """The addresses of a row's two, see `Outputs`, of tokens with zeros."""
        sums = b.add(self.num_rows, row)
        zeros = b.add(self.num_rows, sums)
        return (
            at(b, self.offsets, b.mul(sums, WORD(_NUMBER_BYTES))),
            at(b, self.offsets, b.mul(zeros, WORD(_NUMBER_BYTES))),
        )


class Weights(NamedTuple):
    """The addresses of a layer's weights, by the parameters of `product`."""

    values: Value
    group_scales: Value
    codes: Value
    ends: Value


class Memory(NamedTuple):
    """A thread's own."""

    totals: Value
    """`[layers, rows, panel]` in fp32."""
    layer_bytes: Value
    """Of a layer's totals."""
    row_bytes: Value
    """How far apart the totals of rows lie that do not share a tile: 0 where they are written
    before others begin."""
    unpacked: Value
    """`[layers, groups at once, panel / 16, inputs / 4, 16, 4]`, of weights of four bits: a column
    at a time, as they are written."""
    groups_at_once: Value
    """As many go through the rows together, before those behind them."""


class Groups(NamedTuple):
    """Those that go through the rows together."""

    first: Value
    count: Value
    are_last: Value
    """Whether totals are complete then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Writes the code of an item."""

    b: Builder
    kind: ProductKind
    tokens: Tokens
    layers: Sequence[Weights]
    memory: Memory
    panel: Value
    next_panel: Value
    """Whose weights memory is asked for meanwhile."""
    num_groups: Value
    first_row: Value
    rows: Value
    """Their number."""
    tiles: Mapping[int, ir.Function]
    """By their number of rows, which falls to one."""
    first_tile: ir.Function | None
    """What makes bytes of weights of four bits."""

    def totals(self, layer: int, row: Value) -> Value:
        """The address of a row's, of a layer."""
        b, memory = self.b, self.memory
        own = b.add(b.mul(memory.layer_bytes, WORD(layer)), b.mul(memory.row_bytes, row))
        return at(b, memory.totals, own)

    def multiply(self, groups: Groups, write: Callable[[Value, Value], None]) -> None:
        """Adds the products of groups to the totals of all rows.

        Args:
            write: Given the first of some rows and their number, it writes what becomes of their
                totals, once these are complete.
        """
        b, row = self.b, WORD(0)

        def of_rows(first: Value, compute: Callable[[int, Value, Value], Value]) -> Value:
            count = self._of_groups(groups, compute)
            with b.if_then(groups.are_last):
                write(first, count)
            return count

        if self.first_tile is not None:
            row = of_rows(row, self._unpack)
        for count, tile in self.tiles.items():

            def some(first: Value, count: int = count, tile: ir.Function = tile) -> None:
                def compute(layer: int, group: Value, place: Value) -> Value:
                    self._multiply(tile, first, layer, group, place)
                    return WORD(count)

                of_rows(first, compute)

            row = advance(b, row, self.rows, count, some)

    def _of_groups(self, groups: Groups, compute: Callable[[int, Value, Value], Value]) -> Value:
        """Has groups of all layers computed, and returns what came of the last.

        Args:
            compute: It is given the number of the layer, that of the group, and its place among
                those that go through the rows together.
        """
        b = self.b
        for layer in range(len(self.layers)):

            def group(place: Value, _: list[Value], layer: int = layer) -> list[Value]:
                return [compute(layer, b.add(groups.first, place), place)]

            (last,) = repeat(b, groups.count, [WORD(0)], group)
        return last

    def _unpack(self, layer: int, group: Value, place: Value) -> Value:
        """The first tile of a group; returns how many rows it has."""
        b, size, weights = self.b, self.tokens.group_size, self.layers[layer]
        num_bytes = b.mul(size, WORD(PANEL // self.kind.weights_of_byte))
        num_codes = b.udiv(b.mul(size, WORD(PANEL)), WORD(self.kind.inputs_of_code))
        own = b.add(b.mul(self.panel, self.num_groups), group)
        following, ahead = self._behind(layer, group)
        return b.call(
            self.first_tile,
            [
                self.rows,
                *self.tokens.of(b, self.first_row, group),
                at(b, weights.values, b.mul(own, num_bytes)),
                self._group_scales(layer, own),
                at(b, weights.codes, b.mul(own, num_codes)),
                self._unpacked(layer, place),
                self.totals(layer, WORD(0)),
                size,
                at(b, following.values, b.mul(ahead, num_bytes)),
                at(b, following.codes, b.mul(ahead, num_codes)),
                self._is_first(group),
            ],
        )

    def _behind(self, layer: int, group: Value) -> tuple[Weights, Value]:
        """The layer and the place of the group that is unpacked after another."""
        b = self.b
        here = self.layers[layer]
        if layer + 1 < len(self.layers):
            later, panel = self.layers[layer + 1], self.panel
        else:
            later, panel = self.layers[0], self.next_panel
        following = b.add(group, WORD(1))
        is_last = b.icmp_unsigned("==", following, self.num_groups)
        pairs = zip(later, here, strict=True)
        chosen = Weights(*(b.select(is_last, *pair) for pair in pairs))
        within = b.add(b.mul(self.panel, self.num_groups), following)
        return chosen, b.select(is_last, b.mul(panel, self.num_groups), within)

    def _multiply(
        self, tile: ir.Function, first: Value, layer: int, group: Value, place: Value
    ) -> None:
        """A tile of rows from one on."""
        b, size, weights = self.b, self.tokens.group_size, self.layers[layer]
        own = b.add(b.mul(self.panel, self.num_groups), group)
        if self.first_tile is None:
            group_bytes = b.mul(size, WORD(PANEL))
            values = at(b, weights.values, b.mul(own, group_bytes))
            asked = self._asked(weights, first, values)
        else:
            values = asked = self._unpacked(layer, place)
        row = b.add(self.first_row, first)
        of_rows = (*self.tokens.of(b, row, group), values, self._group_scales(layer, own))
        totals = self.totals(layer, first)
        b.call(tile, [*of_rows, totals, size, asked, self._is_first(group)])

    def _asked(self, weights: Weights, first: Value, values: Value) -> Value:
        """Where a tile asks for a quarter of the next panel, of eight bits."""
        b, size = self.b, self.tokens.group_size
        part = smaller(b, b.udiv(first, WORD(_ROWS_OF_QUARTER)), WORD(_QUARTERS - 1))
        panel_bytes = b.mul(size, WORD(PANEL))
        asked = at(b, weights.values, b.mul(self.next_panel, panel_bytes))
        asked = at(b, asked, b.mul(part, b.mul(size, WORD(PANEL // _QUARTERS))))
        is_few = b.icmp_unsigned("<=", self.tokens.num_rows, WORD(_FEW_ROWS))
        return b.select(is_few, values, asked)

    def _unpacked(self, layer: int, place: Value) -> Value:
        b, memory = self.b, self.memory
        before = b.add(b.mul(memory.groups_at_once, WORD(layer)), place)
        group_bytes = b.mul(self.tokens.group_size, WORD(PANEL))
        return at(b, memory.unpacked, b.mul(before, group_bytes))

    def _group_scales(self, layer: int, group: Value) -> Value:
        b = self.b
        return at(b, self.layers[layer].group_scales, b.mul(group, WORD(PANEL * _SCALE_BYTES)))

    def _is_first(self, group: Value) -> Value:
        return self.b.icmp_unsigned("==", group, WORD(0))
