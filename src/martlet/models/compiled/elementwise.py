"""SiLU with its gate in one pass, where PyTorch makes several.

Shapes: T rows, D columns, in bf16; D is a multiple of 16.
"""

from functools import cache
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    compiled,
    constant,
    fetch_add,
    power_of_two,
    round_sums,
    store,
    widen,
)

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""
_LOG2_E = 1.4426950408889634
_HALF = VECTOR_BYTES // 2


@cache
def silu_times() -> Any:
    """The compiled `silu(x) * y`; its argument is the address of five whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of x,
    which is overwritten, and of y, both `[T, D]`; T; D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        x, y, num_rows, dim = arguments[1], arguments[2], arguments[3], arguments[4]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            count = min(ROWS_AT_ONCE, num_rows - first)
            place = first * dim * 2
            _activate(x + place, y + place, count * dim // WIDTH)

    return work


def gated(builder: Builder, x: Value, y: Value) -> Value:
    """`x / (1 + exp(-x)) * y` in each lane."""
    power = power_of_two(builder, builder.fmul(x, constant(-_LOG2_E)))
    silu = builder.fdiv(x, builder.fadd(power, constant(1)))
    return builder.fmul(silu, y)


@intrinsic  # type: ignore[untyped-decorator]
def _activate(_: Any, x: Any, y: Any, num_vectors: Any) -> Any:
    """Overwrites x with `x / (1 + exp(-x)) * y`."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        x, y, num_vectors = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            place = at(builder, x, loop.index, _HALF)
            own_x, own_y = widen(builder, place), widen(builder, at(builder, y, loop.index, _HALF))
            store(builder, round_sums(builder, gated(builder, own_x, own_y)), place)
        return context.get_dummy_value()

    return types.void(x, y, num_vectors), generate
