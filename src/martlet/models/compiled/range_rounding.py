"""Turns and rounds a bf16 weight to eight bits as `rounded.to_int8` does, straight into panels.

PyTorch's operators make several copies of a weight. Here a row stays in the first level of the
cache, and sixteen of them in the second until they are laid out. The turn is that of
`linear/turned`, summed in fp32.

Shapes: N outputs, a multiple of 16, and K inputs, a multiple of 128.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from martlet.models.compiled.panel import PANEL, turn_rows
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import (
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    bytes_at,
    compiled,
    fetch_add,
    floats_at,
    multiply_add,
    store,
    widen,
)
from martlet.models.machine_code.kind import LEAST_SCALE, TURN, WEIGHT_ZERO

_NONE, _LARGEST = np.float32(0), np.float32(255)
_LEAST_WIDTH, _WEIGHT_ZERO = np.float32(255 * LEAST_SCALE), np.float32(WEIGHT_ZERO)
_SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}


@cache
def round_to_ranges() -> Any:
    """Rounds rows; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count what they took; those of the weight
    `[N, K]` in bf16, and of what is written: panels `[N / 64, K / 4, 64, 4]` in uint8, and in fp32
    the scales `[N]`, the numbers that stand for zero `[N]` and the sums of the values `[N]`, both
    128 less than in the panels; N; and K.
    """
    # The numbers too: they are another folder's, and `version` does not know of it.
    sources = version(), LEAST_SCALE, TURN, WEIGHT_ZERO

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        weight, panels, num_rows, width = arguments[1], arguments[2], arguments[6], arguments[7]
        scales, zeros, sums = (
            floats_at(arguments[3]),
            floats_at(arguments[4]),
            floats_at(arguments[5]),
        )
        turned, values = np.empty(width, np.float32), np.empty(WIDTH * width, np.uint8)
        while True:
            first = fetch_add(arguments[0], WIDTH)
            if first >= num_rows:
                break
            for row in range(WIDTH):
                source = weight + (first + row) * width * 2
                for block in range(width // TURN):
                    _turn(source + block * TURN * 2, turned.ctypes.data + block * TURN * 4)
                own = bytes_at(values.ctypes.data + row * width)
                scale, zero, total = _round_row(turned, own)
                scales[first + row], zeros[first + row] = scale, zero - _WEIGHT_ZERO
                sums[first + row] = total - _WEIGHT_ZERO * width
            panel = panels + first // PANEL * PANEL * width
            # Four values are moved as one, as a pair of bf16 is.
            turn_rows(values.ctypes.data, width // 2, panel, first % PANEL // WIDTH)

    return work


@njit(fastmath=_SUMS_IN_ANY_ORDER, error_model="numpy")  # type: ignore[untyped-decorator]
def _round_row(row: Any, values: Any) -> Any:
    """Writes the values of a row; its scale, the value that stands for zero, and their sum."""
    lowest = highest = _NONE
    for index in range(len(row)):
        lowest, highest = min(lowest, row[index]), max(highest, row[index])
    scale = max(highest - lowest, _LEAST_WIDTH) / _LARGEST
    zero = np.rint(-lowest / scale)
    total = 0
    for index in range(len(row)):
        value = np.uint8(min(np.rint(row[index] / scale) + zero, _LARGEST))
        values[index] = value
        total += int(value)
    return scale, zero, np.float32(total)


@intrinsic  # type: ignore[untyped-decorator]
def _turn(_: Any, source: Any, target: Any) -> Any:
    """Mixes 128 bf16 values at an address, and writes them to another in fp32."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Any) -> Value:
        source, target = arguments
        vectors, lanes = range(TURN // WIDTH), range(WIDTH)
        values = [
            widen(builder, at(builder, source, index, VECTOR_BYTES // 2)) for index in vectors
        ]
        for size in (1, 2, 4):
            values = [
                builder.fsub(values[index ^ size], values[index])
                if index & size
                else builder.fadd(values[index], values[index ^ size])
                for index in vectors
            ]
        for size in (1, 2, 4, 8):
            others = ir.Constant(PAIRS, [lane ^ size for lane in lanes])
            signs = ir.Constant(SUMS, [-1.0 if lane & size else 1.0 for lane in lanes])
            values = [
                multiply_add(builder, value, signs, builder.shuffle_vector(value, value, others))
                for value in values
            ]
        for index, value in enumerate(values):
            store(builder, value, at(builder, target, index, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(source, target), generate
