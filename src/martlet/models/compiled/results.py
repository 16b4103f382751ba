"""The sums of a product in registers: written in each way that there is, or read to be added to.

A row has 64 of them, in four vectors. Memory is passed by address, as in `vectors`.
"""

from collections.abc import Iterator, Sequence

from llvmlite import ir
from numba.core import cgutils

from martlet.models.compiled.panel import VECTORS
from martlet.models.compiled.vectors import (
    ADDRESS,
    SUMS,
    VECTOR_BYTES,
    Builder,
    Value,
    at,
    load,
    round_sums,
    store,
    widen,
)
from martlet.models.compiled.writing import Writing

_HALF = VECTOR_BYTES // 2


def store_sums(
    builder: Builder, sums: Sequence[Sequence[Value]], targets: Sequence[Value], way: Value
) -> None:
    """Writes the sums of each row to its address.

    Args:
        way: A `Writing`.
    """
    with _if_is(builder, way, Writing.ROUNDED):
        for total, place in _vectors(builder, sums, targets, _HALF):
            store(builder, round_sums(builder, total), place)
    with _if_is(builder, way, Writing.WIDE):
        for total, place in _vectors(builder, sums, targets, VECTOR_BYTES):
            store(builder, total, place)
    with _if_is(builder, way, Writing.PAST_CACHES):
        for total, place in _vectors(builder, sums, targets, VECTOR_BYTES):
            pointer = builder.inttoptr(place, ir.PointerType())
            stored = builder.store(total, pointer, align=VECTOR_BYTES)
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


def load_sums(builder: Builder, address: Value, way: Value) -> list[Value]:
    """What `store_sums` wrote of a row."""
    sums = [cgutils.alloca_once(builder, SUMS) for _ in VECTORS]
    is_rounded = builder.icmp_signed("==", way, ADDRESS(Writing.ROUNDED))
    with builder.if_else(is_rounded) as (rounded, as_they_are):
        with rounded:
            for index, each in enumerate(sums):
                builder.store(widen(builder, at(builder, address, index, _HALF)), each)
        with as_they_are:
            for index, each in enumerate(sums):
                builder.store(load(builder, at(builder, address, index, VECTOR_BYTES), SUMS), each)
    return [builder.load(each) for each in sums]


def _if_is(builder: Builder, way: Value, wanted: Writing) -> Value:
    return builder.if_then(builder.icmp_signed("==", way, ADDRESS(wanted)))


def _vectors(
    builder: Builder, sums: Sequence[Sequence[Value]], targets: Sequence[Value], num_bytes: int
) -> Iterator[tuple[Value, Value]]:
    """Each vector of sums and its address, those of a row so many bytes apart."""
    for target, totals in zip(targets, sums, strict=True):
        for index, total in enumerate(totals):
            yield total, at(builder, target, index, num_bytes)
