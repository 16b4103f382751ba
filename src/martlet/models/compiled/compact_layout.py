"""Lays a bf16 weight out in twelve bits, see `compact`.

Shapes: N outputs, K inputs, P panels, E exceptions.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from martlet.models.compiled.compact import (
    EXPONENT_SHIFT,
    NUM_CODES,
    PANEL_STEP_BYTES,
    PLACE_SHIFT,
    STEP_BYTES,
    STEP_SHIFT,
    VALUES_OF_STEP,
    pack_step,
)
from martlet.models.compiled.panel import PANEL, turn_rows
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import WIDTH, compiled, fetch_add, halves_at, numbers_at

_NUM_EXPONENTS = 256
_COUNTS_AT_ONCE = 4
"""Tables, so that an increment need not wait for the one before, of the same exponent."""


@cache
def survey() -> Any:
    """Finds the exponents that get codes; its argument is the address of six whole numbers.

    These are: the address of a number in which threads count what they took; those of the weight
    `[N, K]` in bf16, and of what is written for each panel, in 64 bits: the first of its exponents
    with a code, and how many values have another one; P; and K.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        leasts, counts = numbers_at(arguments[2]), numbers_at(arguments[3])
        num_panels, num_values = arguments[4], PANEL * arguments[5]
        table = np.empty((_COUNTS_AT_ONCE, _NUM_EXPONENTS), np.int64)
        while True:
            panel = fetch_add(arguments[0], 1)
            if panel >= num_panels:
                break
            _count_exponents(halves_at(arguments[1] + panel * num_values * 2), num_values, table)
            leasts[panel], num_coded = _most_used(table[0])
            counts[panel] = num_values - table[0, 0] - num_coded

    return work


@njit  # type: ignore[untyped-decorator]
def _count_exponents(values: Any, num_values: int, table: Any) -> None:
    """How many values have each exponent, in the first row of a table."""
    table[:] = 0
    for index in range(0, num_values, _COUNTS_AT_ONCE):
        for each in range(_COUNTS_AT_ONCE):
            table[each, (values[index + each] >> EXPONENT_SHIFT) & (_NUM_EXPONENTS - 1)] += 1
    for each in range(1, _COUNTS_AT_ONCE):
        table[0] += table[each]


@njit  # type: ignore[untyped-decorator]
def _most_used(counts: Any) -> Any:
    """The first of the exponents in a row that most values have, and how many these are."""
    total = counts[1 : 1 + NUM_CODES].sum()
    least, most = 1, total
    for first in range(2, _NUM_EXPONENTS - NUM_CODES + 1):
        total += counts[first + NUM_CODES - 1] - counts[first - 1]
        if total > most:
            least, most = first, total
    return least, most


@cache
def pack() -> Any:
    """Lays a weight out; its argument is the address of eight whole numbers.

    These are: the address of a number in which threads count what they took; those of the weight
    `[N, K]` in bf16, of what `survey` found first `[P]`, of the numbers of each panel's first
    exception `[P]` of 64 bits, of the steps `[P, K / 2, 192]` and of the exceptions `[E]` of 64
    bits, which are written; P; and K.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        weight, leasts, firsts = arguments[1], numbers_at(arguments[2]), numbers_at(arguments[3])
        target, exceptions = arguments[4], arguments[5]
        num_panels, width = arguments[6], arguments[7]
        panel_of_values = np.empty(PANEL * width, np.uint16)
        while True:
            panel = fetch_add(arguments[0], 1)
            if panel >= num_panels:
                break
            _pack_panel(
                weight + panel * PANEL * width * 2,
                width,
                panel * (width // 2),
                leasts[panel],
                target + panel * (width // 2) * STEP_BYTES,
                numbers_at(exceptions + 8 * firsts[panel]),
                panel_of_values,
            )

    return work


@njit  # type: ignore[untyped-decorator]
def _pack_panel(
    rows: int, width: int, number: int, least: int, target: int, exceptions: Any, scratch: Any
) -> None:
    """The steps and the exceptions of a panel, whose first step has a number."""
    address, found = scratch.ctypes.data, 0
    for index in range(PANEL // WIDTH):
        turn_rows(rows + index * WIDTH * width * 2, width, address, index)
    for step in range(width // 2):
        if pack_step(address + step * PANEL_STEP_BYTES, least, target + step * STEP_BYTES):
            for place in range(VALUES_OF_STEP):
                value = np.int64(scratch[step * VALUES_OF_STEP + place])
                exponent = (value >> EXPONENT_SHIFT) & (_NUM_EXPONENTS - 1)
                if exponent and not least <= exponent < least + NUM_CODES:
                    own = (number + step) << STEP_SHIFT
                    exceptions[found] = own | place << PLACE_SHIFT | value
                    found += 1
