"""The place of the largest number of each row, in one pass.

Shapes: M rows, V columns, in bf16; V is a multiple of 16.
"""

from functools import cache
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from martlet.models.compiled.threads import run, version
from martlet.models.compiled.vectors import (
    PAIRS,
    SUMS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    broadcast,
    call,
    compiled,
    constant,
    fetch_add,
    numbers_at,
    widen,
)


def first_largest(rows: Tensor) -> Tensor:
    """`rows.argmax(dim=1)`, `[M, V] -> [M]`; of equals the first, and NaN counts as infinite."""
    out = torch.empty(len(rows), dtype=torch.int64)
    run(find_largest(), (rows.data_ptr(), out.data_ptr(), *rows.shape))
    return out


@cache
def find_largest() -> Any:
    """The compiled search; its argument is the address of five whole numbers.

    These are: the address of a number in which threads count the rows that they took; those of the
    rows `[M, V]` and of the places found `[M]`; M; V.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        rows, out, num_rows, num_columns = arguments[1], arguments[2], arguments[3], arguments[4]
        places = numbers_at(out)
        while True:
            row = fetch_add(arguments[0], 1)
            if row >= num_rows:
                break
            places[row] = _find(rows + row * num_columns * 2, num_columns // WIDTH)

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _find(_: Any, row: Any, num_vectors: Any) -> Any:
    """The first column of a row that holds its largest number."""

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        row, num_vectors = arguments
        infinite = constant(float("inf"))
        largest = cgutils.alloca_once_value(builder, constant(float("-inf")))
        places = cgutils.alloca_once_value(builder, ir.Constant(PAIRS, list(range(WIDTH))))
        lanes = builder.load(places)
        with cgutils.for_range(builder, num_vectors) as loop:
            x = widen(builder, at(builder, row, loop.index, VECTOR_BYTES // 2))
            x = builder.select(builder.fcmp_unordered("uno", x, x), infinite, x)
            is_larger = builder.fcmp_ordered(">", x, builder.load(largest))
            first = builder.trunc(builder.mul(loop.index, loop.index.type(WIDTH)), PAIRS.element)
            columns = builder.add(broadcast(builder, first), lanes)
            builder.store(builder.select(is_larger, x, builder.load(largest)), largest)
            builder.store(builder.select(is_larger, columns, builder.load(places)), places)
        best = call(builder, "llvm.vector.reduce.fmax.v16f32", SUMS.element, builder.load(largest))
        is_best = builder.fcmp_ordered("==", builder.load(largest), broadcast(builder, best))
        beyond = ir.Constant(PAIRS, [2**31 - 1] * WIDTH)
        candidates = builder.select(is_best, builder.load(places), beyond)
        place = call(builder, "llvm.vector.reduce.umin.v16i32", PAIRS.element, candidates)
        return builder.zext(place, num_vectors.type)

    return types.int64(row, num_vectors), generate
