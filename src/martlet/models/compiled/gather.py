"""Some rows of a table, copied to where they lie together.

Shapes: N rows of a table, B bytes each, a multiple of 8; M of them.
"""

from functools import cache
from typing import Any

from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import compiled, fetch_add, numbers_at

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""


@cache
def gather_rows() -> Any:
    """The compiled function; its argument is the address of six whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    numbers of the wanted rows `[M]` of 64 bits, of the table `[N, B]`, and of the result `[M, B]`;
    M; and B.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        wanted, table, out = numbers_at(arguments[1]), arguments[2], arguments[3]
        num_rows, row_bytes = arguments[4], arguments[5]
        while True:
            first = fetch_add(arguments[0], ROWS_AT_ONCE)
            if first >= num_rows:
                break
            for row in range(first, min(first + ROWS_AT_ONCE, num_rows)):
                source = numbers_at(table + wanted[row] * row_bytes)
                target = numbers_at(out + row * row_bytes)
                for number in range(row_bytes // 8):
                    target[number] = source[number]

    return work
