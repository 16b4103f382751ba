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
    ends                          [P, 2, output] in fp32: what totals are multiplied with, and bias
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
    allocate,
    ceil_div,
    repeat,
    smaller,
)
from martlet.models.machine_code.kind import PANEL, ROWS_AT_ONCE, ProductKind
from martlet.models.machine_code.panel import Panel
from martlet.models.machine_code.token_rounding import Rounding
from martlet.models.machine_code.worker import Worker

_PARAMETERS = [POINTER] * 8 + [WORD] * 4


@cache
def product(kind: ProductKind) -> Worker:
    """The function for a kind."""
    module = ir.Module("product")
    panel = Panel(module, kind)
    return Worker(module, _PARAMETERS, panel.item, panel.prepare, looks_ahead=True)


@cache
def gated_product(kind: ProductKind) -> Worker:
    """The function for `silu(gate(x)) * up(x)` in bf16, of two layers of a kind.

    Behind the four parameters of the gate's weights it takes those of the other's. So neither
    product is ever in memory.
    """
    module = ir.Module("gated_product")
    panel = Panel(module, kind, num_layers=2)
    parameters = [*_PARAMETERS[:7], *_PARAMETERS[3:]]
    return Worker(module, parameters, panel.item, panel.prepare, looks_ahead=True)


@cache
def product_of_few(kind: ProductKind) -> Worker:
    """The same for tokens that are not rounded yet, in the type of the output.

    Each thread rounds all of them for itself, which for a few takes less time than another call.
    In the places of the values, scales and offsets are the tokens, the size of a group, and how
    many of the items of `product` are one here: for few tokens a thread waits for memory alone,
    which gives most to whoever goes on reading where he is.
    """
    module = ir.Module("product_of_few")
    rounding = Rounding(module, kind.dtype)
    panel = Panel(module, kind)

    def prepare(
        b: Builder, x: Value, group_size: Value, num_at_once: Value, *others: Value
    ) -> list[Value]:
        num_rows, width, _, num_groups = others[-4:]
        scale_bytes = b.mul(b.mul(num_rows, num_groups), WORD(4))
        lengths = (b.mul(num_rows, width), scale_bytes, scale_bytes)
        tokens = [allocate(b, num_bytes) for num_bytes in lengths]
        sizes = (num_rows, width, group_size)
        rounding.rows(b, WORD(0), num_rows, x, *tokens, sizes=sizes)
        return [num_at_once, *panel.prepare(b, *tokens, *others)]

    def item(b: Builder, number: Value, num_at_once: Value, *others: Value) -> None:
        num_rows, _, num_outputs, _ = others[-4:]
        num_turns = ceil_div(b, num_rows, ROWS_AT_ONCE)
        num_items = b.mul(num_turns, ceil_div(b, num_outputs, PANEL))
        first = b.mul(number, num_at_once)
        count = smaller(b, num_at_once, b.sub(num_items, first))

        def one(index: Value, _: list[Value]) -> list[Value]:
            own = b.add(first, index)
            panel.item(b, own, b.add(own, WORD(1)), *others)
            return []

        repeat(b, count, [], one)

    return Worker(module, [POINTER, WORD, WORD, *_PARAMETERS[3:]], item, prepare)
