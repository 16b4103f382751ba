"""Rounds a bf16 weight to four bits as `rounding.round_to_steps` does, to the same numbers.

That goes about a hundred times through what it rounds. Here a row stays in the first level of the
cache, and a group in registers. Loops count: where they are over the values themselves, the
compiler does not take sixteen at once, and they take 2.5 times as long.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import bytes_at, compiled, fetch_add, floats_at, halves_at
from martlet.models.machine_code.kind import (
    LARGEST_STEPS,
    LARGEST_VALUE,
    LEAST_SCALE,
    MULTIPLIERS,
)

_MULTIPLIERS = np.array(MULTIPLIERS, np.float32)
_LARGEST_STEPS, _LARGEST_VALUE = np.float32(LARGEST_STEPS), np.float32(LARGEST_VALUE)
_LEAST_SCALE, _NONE, _ZERO = np.float32(LEAST_SCALE), np.float32(0), np.float32(7)
_WORST = np.float32(np.inf)
_HALF_BITS = np.uint32(16)
_SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}


@cache
def round_steps() -> Any:
    """Rounds rows; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count what they took; those of the weight
    `[N, K]` in bf16, and of what is written: values `[N, K]` and codes `[N, G]` in uint8, scales
    `[N]` in fp32; N; K; and K / G.
    """
    # The numbers too: they are other folders', and `version` does not know of them.
    sources = version(), LARGEST_STEPS, LARGEST_VALUE, LEAST_SCALE, MULTIPLIERS

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        num_rows, width, size = arguments[5], arguments[6], arguments[7]
        scales = floats_at(arguments[4])
        steps = np.empty(width, np.float32)
        while True:
            row = fetch_add(arguments[0], 1)
            if row >= num_rows:
                break
            scales[row] = _in_steps(halves_at(arguments[1] + row * width * 2), steps)
            values = bytes_at(arguments[2] + row * width)
            codes = bytes_at(arguments[3] + row * (width // size))
            for group in range(width // size):
                first = group * size
                codes[group] = _round_group(steps[first : first + size], values, first)

    return work


@njit(fastmath=_SUMS_IN_ANY_ORDER, error_model="numpy")  # type: ignore[untyped-decorator]
def _in_steps(weights: Any, steps: Any) -> Any:
    """A row in steps of its scale, which is returned."""
    bits = steps.view(np.uint32)
    largest = _NONE
    for index in range(len(steps)):
        bits[index] = np.uint32(weights[index]) << _HALF_BITS
    for index in range(len(steps)):
        largest = max(largest, abs(steps[index]))
    scale = max(largest / _LARGEST_STEPS, _LEAST_SCALE)
    for index in range(len(steps)):
        steps[index] = steps[index] / scale
    return scale


@njit(fastmath=_SUMS_IN_ANY_ORDER, error_model="numpy")  # type: ignore[untyped-decorator]
def _round_group(steps: Any, values: Any, first: int) -> int:
    """Writes a group's values from `first` on, and returns its code."""
    lowest = highest = _NONE
    for index in range(len(steps)):
        lowest, highest = min(lowest, steps[index]), max(highest, steps[index])
    is_negative = 1 if -lowest >= highest else 0
    zero = _ZERO + np.float32(is_negative)
    most = _LARGEST_VALUE - zero
    best, least = 0, _WORST
    for number in range(len(_MULTIPLIERS)):
        multiplier, error = _MULTIPLIERS[number], _NONE
        for index in range(len(steps)):
            rounded = min(max(np.rint(steps[index] / multiplier), -zero), most)
            missed = rounded * multiplier - steps[index]
            error += missed * missed * abs(steps[index])
        if error < least:
            best, least = number, error
    for index in range(len(steps)):
        rounded = min(max(np.rint(steps[index] / _MULTIPLIERS[best]), -zero), most)
        values[first + index] = np.uint8(rounded + zero)
    return 2 * best + is_negative
