"""How much of a softmax lies in each segment of a row, in one pass.

Shapes: M rows, V columns, in fp32; segments of 128 columns, C = V / 128.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from martlet.models.compiled.threads import run, version
from martlet.models.compiled.vectors import (
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    broadcast,
    compiled,
    constant,
    fetch_add,
    floats_at,
    load,
    multiply_add,
    power_of_two,
    sum_of,
)

SEGMENT = 128
"""Columns of a segment."""
_VECTORS = range(SEGMENT // WIDTH)
_LOG2_E = np.float32(1.4426950408889634)


def weigh_segments(rows: Tensor, largest: Tensor, temperatures: Tensor) -> Tensor:
    """The sums of `exp((x - largest) / temperature)` over each segment.

    Args:
        rows: `[M, V]` in fp32.
        largest: `[M]` in fp32, each row's largest number.
        temperatures: `[M]` in fp32.

    Returns:
        `[M, C]` in fp32.
    """
    out = torch.empty(rows.shape[0], rows.shape[1] // SEGMENT)
    addresses = (each.data_ptr() for each in (rows, largest, temperatures, out))
    run(add_segments(), (*addresses, *out.shape))
    return out


@cache
def add_segments() -> Any:
    """The compiled sums; its argument is the address of seven whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[M, V]`, of what is largest in each `[M]`, of the temperatures `[M]` and of the sums
    `[M, C]`; M; C.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        largest, temperatures = floats_at(arguments[2]), floats_at(arguments[3])
        num_rows, num_segments = arguments[5], arguments[6]
        while True:
            row = fetch_add(arguments[0], 1)
            if row >= num_rows:
                break
            scale = _LOG2_E / temperatures[row]
            sums = floats_at(arguments[4] + row * num_segments * 4)
            first = arguments[1] + row * num_segments * SEGMENT * 4
            for segment in range(num_segments):
                place = first + segment * SEGMENT * 4
                sums[segment] = _sum(place, scale, -largest[row] * scale)

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _sum(_: Any, place: Any, scale: Any, offset: Any) -> Any:
    """The sum of `2 ** (x * scale + offset)` over a segment."""

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        place, scale, offset = arguments
        scale, offset = broadcast(builder, scale), broadcast(builder, offset)
        total = cgutils.alloca_once_value(builder, constant(0))
        for index in _VECTORS:
            x = load(builder, at(builder, place, index, VECTOR_BYTES), SUMS)
            power = power_of_two(builder, multiply_add(builder, x, scale, offset))
            builder.store(builder.fadd(builder.load(total), power), total)
        return sum_of(builder, builder.load(total))

    return types.float32(place, scale, offset), generate
