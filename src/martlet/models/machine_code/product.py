"""The product of rounded tokens with weights of eight or four bits, as a compiled function.

Whole numbers are summed exactly by the instruction for neural networks that AVX-512 has (VNNI),
and what follows is computed in the same order for each row: it comes out the same to the last bit,
whoever its neighbours are. Weights of four bits become bytes group by group, in the first levels of
the cache, once for all rows that meet them there.

Weights lie in panels of outputs, within a panel in the order in which they are read:

    8 bits   [panel, K / 4, output, 4]
    4 bits   [panel, K / 8, output, 4]; a byte holds an input and, higher, the fourth after it

The parameters of `product`, by the shapes of `linear/tokens`, for N outputs in P panels:

    values, scales, offsets       the tokens
    weight                        its values plus 128 or, of four bits, as they are stored
    group_scales                  [P, G, output] in bf16; read where there are any
    codes                         [P, K / inputs of a code, output] in uint8; read for four bits
    ends                          [P, 2, output] in fp32: what totals are multiplied with, and bias;
                                  [P, 4, output] with zeros, see `Outputs`
    out                           [T, N], written
    a Writing                     of the outputs
    T, K, N, G
"""

from functools import cache

from llvmlite import ir

from martlet.models.machine_code.emit import (
    POINTER,
    WORD,
    Builder,
    Value,
    allocate,
    ceil_div,
    repeat,
    smaller,
)
from martlet.models.machine_code.kind import PANEL, ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.one_row import OneRow
from martlet.models.machine_code.panel import Panel, Tiles
from martlet.models.machine_code.token_rounding import Rounding
from martlet.models.machine_code.worker import MachineCode, Worker, write_worker

_PARAMETERS = [POINTER] * 8 + [WORD] * 5
_OF_FEW = "product_of_few"


@cache
def products(kind: ProductKind) -> "Products":
    """The functions for a kind."""
    return Products(kind)


class Products:
    """The functions for a kind; they share the code of their tiles."""

    def __init__(self, kind: ProductKind) -> None:
        self._kind, self._code = kind, MachineCode()
        self._gated: Worker | None = None
        module = ir.Module("products")
        self._tiles = Tiles.written(module, kind)
        panel = Panel(module, kind, self._tiles)
        write_worker(module, "product", _PARAMETERS, panel.item, panel.prepare, looks_ahead=True)
        _write_product_of_few(module, kind, panel)
        self._code.add(module)
        self.product = self._code.worker("product")
        self.of_few = self._code.worker(_OF_FEW)

    def gated(self) -> Worker:
        """The function for `silu(gate(x)) * up(x)` in bf16, of two layers of the kind.

        Behind the four parameters of the gate's weights it takes those of the other's. So neither
        product is ever in memory. It is compiled when it is first asked for.
        """
        if self._gated is None:
            self._gated = self._compile_gated()
        return self._gated

    def _compile_gated(self) -> Worker:
        module = ir.Module("gated_product")
        panel = Panel(module, self._kind, self._tiles.declared(module), num_layers=2)
        parameters = [*_PARAMETERS[:7], *_PARAMETERS[3:]]
        write_worker(
            module, "gated_product", parameters, panel.item, panel.prepare, looks_ahead=True
        )
        self._code.add(module)
        return self._code.worker("gated_product")


def _write_product_of_few(module: ir.Module, kind: ProductKind, panel: Panel) -> None:
    """The product of tokens that are not rounded yet, in the type of the kind.

    Each thread rounds all of them for itself, which for a few takes less time than another call.
    In the places of the values, scales and offsets are the tokens, the size of a group, and how
    many of the items of `product` are one here: for few tokens a thread waits for memory alone,
    which gives most to whoever goes on reading where he is.
    """
    rounding = Rounding(module, kind.tokens)
    one_row = OneRow(module, kind) if OneRow.is_for(kind) else None

    def prepare(
        b: Builder, x: Value, group_size: Value, num_at_once: Value, *others: Value
    ) -> list[Value]:
        num_rows, width, _, num_groups = others[-4:]
        scale_bytes = b.mul(b.mul(num_rows, num_groups), WORD(4))
        offset_bytes = b.mul(scale_bytes, WORD(3 if kind.tokens.has_zeros else 1))
        lengths = (b.mul(num_rows, width), scale_bytes, offset_bytes)
        tokens = [allocate(b, num_bytes) for num_bytes in lengths]
        sizes = (num_rows, width, group_size)
        places = (x, *tokens, rounding.prepare(b, width))
        rounding.rows(b, WORD(0), num_rows, *places, sizes=sizes)
        sums = one_row.prepare(b, tokens[0], num_rows, width) if one_row else tokens[0]
        return [num_at_once, sums, *panel.prepare(b, *tokens, *others)]

    def item(b: Builder, number: Value, num_at_once: Value, sums: Value, *others: Value) -> None:
        num_rows, _, num_outputs, _ = others[-4:]
        num_turns = ceil_div(b, num_rows, ROWS_AT_ONCE)
        num_items = b.mul(num_turns, ceil_div(b, num_outputs, PANEL))
        first = b.mul(number, num_at_once)
        count = smaller(b, num_at_once, b.sub(num_items, first))

        def one(index: Value, _: list[Value]) -> list[Value]:
            own = b.add(first, index)
            if one_row is None:
                panel.item(b, own, b.add(own, WORD(1)), *others)
                return []
            with b.if_else(b.icmp_unsigned("==", num_rows, WORD(1))) as (alone, crowd):
                with alone:
                    panel.one_row(b, own, sums, one_row, *others)
                with crowd:
                    panel.item(b, own, b.add(own, WORD(1)), *others)
            return []

        repeat(b, count, [], one)

    write_worker(module, _OF_FEW, [POINTER, WORD, WORD, *_PARAMETERS[3:]], item, prepare)
