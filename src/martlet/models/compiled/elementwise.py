"""SiLU with its gate in one pass, where PyTorch makes several.

Shapes: T rows, D columns, a multiple of 16.
"""

from functools import cache
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    compiled,
    constant,
    fetch_add,
    load,
    power_of_two,
    round_sums,
    store,
)

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""
_LOG2_E = 1.4426950408889634
_HALF = VECTOR_BYTES // 2


@cache
def silu_times() -> Any:
    """The compiled `silu(x) * y`; its argument is the address of six whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of x
    and y in fp32 and of the result in bf16, all `[T, D]`; T; D.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        x, y, out = arguments[1], arguments[2], arguments[3]
        num_rows, dim = arguments[4], arguments[5]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            count = min(ROWS_AT_ONCE, num_rows - first)
            place = first * dim * 4
            activate(x + place, y + place, out + first * dim * 2, count * dim // WIDTH)

    return work


def gated(builder: Builder, x: Value, y: Value) -> Value:
    """`x / (1 + exp(-x)) * y` in each lane."""
    power = power_of_two(builder, builder.fmul(x, constant(-_LOG2_E)))
    silu = builder.fdiv(x, builder.fadd(power, constant(1)))
    return builder.fmul(silu, y)


@intrinsic  # type: ignore[untyped-decorator]
def activate(_: Any, x: Any, y: Any, out: Any, num_vectors: Any) -> Any:
    """Writes `x / (1 + exp(-x)) * y` in bf16, of vectors in fp32."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        x, y, out, num_vectors = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            own_x, own_y = (
                load(builder, at(builder, each, loop.index, VECTOR_BYTES), SUMS) for each in (x, y)
            )
            rounded = round_sums(builder, gated(builder, own_x, own_y))
            store(builder, rounded, at(builder, out, loop.index, _HALF))
        return context.get_dummy_value()

    return types.void(x, y, out, num_vectors), generate
