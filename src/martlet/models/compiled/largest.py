"""The place of the largest number of each row, in one pass.

Shapes: M rows, V columns, in fp32; V is a multiple of 16.
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
    load,
    numbers_at,
    store,
)


def first_largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows.max(dim=1)`: the place of the largest, of equals the first, and NaN counts as infinite.

    Returns:
        The places `[M]` and what is there, in fp32 `[M]`.
    """
    places = torch.empty(len(rows), dtype=torch.int64)
    largest = torch.empty(len(rows), dtype=torch.float32)
    addresses = (each.data_ptr() for each in (rows, places, largest))
    run(find_largest(), (len(rows), *addresses, rows.shape[1]))
    return places, largest


@cache
def find_largest() -> Any:
    """The compiled search; its argument is the address of six whole numbers.

    These are: the address of a number in which threads count the rows that they took; M; the
    addresses of the rows `[M, V]`, of the places found `[M]` and of the largest numbers `[M]`, in
    fp32; V.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        num_rows, rows, num_columns = arguments[1], arguments[2], arguments[5]
        places, largest = numbers_at(arguments[3]), arguments[4]
        while True:
            row = fetch_add(arguments[0], 1)
            if row >= num_rows:
                break
            own = rows + row * num_columns * 4
            places[row] = _find(own, num_columns // WIDTH, largest + row * 4)

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _find(_: Any, row: Any, num_vectors: Any, out: Any) -> Any:
    """The first column of a row that holds its largest number, which is written to an address."""

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        row, num_vectors, out = arguments
        infinite = constant(float("inf"))
        largest = cgutils.alloca_once_value(builder, constant(float("-inf")))
        places = cgutils.alloca_once_value(builder, ir.Constant(PAIRS, list(range(WIDTH))))
        lanes = builder.load(places)
        with cgutils.for_range(builder, num_vectors) as loop:
            x = load(builder, at(builder, row, loop.index, VECTOR_BYTES), SUMS)
            x = builder.select(builder.fcmp_unordered("uno", x, x), infinite, x)
            is_larger = builder.fcmp_ordered(">", x, builder.load(largest))
            first = builder.trunc(builder.mul(loop.index, loop.index.type(WIDTH)), PAIRS.element)
            columns = builder.add(broadcast(builder, first), lanes)
            builder.store(builder.select(is_larger, x, builder.load(largest)), largest)
            builder.store(builder.select(is_larger, columns, builder.load(places)), places)
        best = call(builder, "llvm.vector.reduce.fmax.v16f32", SUMS.element, builder.load(largest))
        store(builder, best, out)
        is_best = builder.fcmp_ordered("==", builder.load(largest), broadcast(builder, best))
        beyond = ir.Constant(PAIRS, [2**31 - 1] * WIDTH)
        candidates = builder.select(is_best, builder.load(places), beyond)
        place = call(builder, "llvm.vector.reduce.umin.v16i32", PAIRS.element, candidates)
        return builder.zext(place, num_vectors.type)

    return types.int64(row, num_vectors, out), generate
