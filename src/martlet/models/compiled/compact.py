"""A bf16 weight in twelve bits, without loss: exponents are few, so each is a code of four bits.

Of the eight bits of an exponent trained weights use fewer than three (Zhang et al.,
arXiv:2504.11651, who code them by frequency). Here every code has the same length, so that a vector
is unpacked in three instructions: fifteen exponents that follow on each other have a code, and code
0 is the exponent 0, that of zeros. A weight with another exponent, one in several thousand, is an
exception: it lies apart as a whole, and its code is 0.

A panel is what `panel` says. It has a step for each pair of inputs: four vectors A, B, C, D of 32
bf16 values. In 192 bytes these are:

    lines   2 x [32] 16 bits   sign and mantissa of A and, with its bytes swapped, of B; of C and D
    codes   [32] 16 bits       four bits of each: A lowest

An exception is a number of 64 bits: its step, counted through all panels, then its place in it and
its value, of 16 bits each. They are in order, and behind the last there is one of no step.

Memory is passed by address, as in `vectors`.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from martlet.models.compiled.panel import VECTORS
from martlet.models.compiled.vectors import (
    ADDRESS,
    PAIRS,
    VECTOR_BYTES,
    WIDTH,
    Builder,
    Value,
    at,
    call,
    load,
    store,
)

STEP_BYTES = 3 * VECTOR_BYTES
PANEL_STEP_BYTES = len(VECTORS) * VECTOR_BYTES
"""Of a step that was unpacked."""
VALUES_OF_STEP = PANEL_STEP_BYTES // 2
STEP_SHIFT, PLACE_SHIFT = 32, 16
"""Of an exception."""
TABLE_BYTES = VECTOR_BYTES
NUM_CODES = 15
"""Exponents that have a code, from 1 on."""
EXPONENT_SHIFT = 7
_KEPT = 0x807F
"""The sign and the mantissa of a bf16 value."""
_CODE_BITS = 4
_HALF = ir.IntType(16)
_HALVES = ir.VectorType(_HALF, 2 * WIDTH)
_MEMBERS = 2
"""Vectors whose signs and mantissas share a line."""


def unpacked(builder: Builder, step: Value, exponents: Value) -> list[Value]:
    """The four vectors of pairs of a step.

    Args:
        step: Its address.
        exponents: The vector that `exponents_at` loads.
    """
    codes = _load(builder, step, len(VECTORS) // _MEMBERS)
    vectors = []
    for index in VECTORS:
        line = _load(builder, step, index // _MEMBERS)
        kept = _swapped(builder, line) if index % _MEMBERS else line
        kept = builder.and_(kept, _each(_KEPT))
        # A look-up uses five bits of each place: what stands above the code does not matter, for
        # the table holds everything twice.
        places = builder.lshr(codes, _each(_CODE_BITS * index)) if index else codes
        looked_up = call(builder, "llvm.x86.avx512.permvar.hi.512", _HALVES, exponents, places)
        vectors.append(builder.bitcast(builder.or_(kept, looked_up), PAIRS))
    return vectors


def restore(builder: Builder, copy: Value, step: Value, exception: Value) -> None:
    """Puts the exceptions of a step into its copy, and goes on to the next one.

    Args:
        copy: Where the vectors of the step were written to.
        step: Its number, counted through all panels. It has an exception at least.
        exception: A variable, the address of the first of them.
    """
    again, after = (builder.append_basic_block(name) for name in ("restore", "restored"))
    builder.branch(again)
    builder.position_at_end(again)
    address = builder.load(exception)
    number = load(builder, address, ADDRESS)
    place = builder.and_(builder.lshr(number, ADDRESS(PLACE_SHIFT)), ADDRESS(VALUES_OF_STEP - 1))
    store(builder, builder.trunc(number, _HALF), at(builder, copy, place, _HALF.width // 8))
    following = builder.add(address, ADDRESS(8))
    builder.store(following, exception)
    builder.cbranch(builder.icmp_signed("==", step_of(builder, following), step), again, after)
    builder.position_at_end(after)


def step_of(builder: Builder, exception: Value) -> Value:
    """The number of the step that has the exception at an address."""
    return builder.ashr(load(builder, exception, ADDRESS), ADDRESS(STEP_SHIFT))


def exponents_at(builder: Builder, table: Value) -> Value:
    """What the codes of a panel stand for, of the table `[32]` of 16 bits at an address."""
    return load(builder, table, _HALVES)


@intrinsic  # type: ignore[untyped-decorator]
def pack_step(_: Any, vectors: Any, least: Any, target: Any) -> Any:
    """Writes the four vectors at an address as a step; the number of exceptions among them.

    Args:
        least: The exponent that has code 1, a whole number of 64 bits.
    """

    def generate(_: Any, builder: Builder, __: Any, arguments: Any) -> Value:
        vectors, least, target = arguments
        first = _broadcast(builder, builder.trunc(least, _HALF))
        values = [_load(builder, vectors, index) for index in VECTORS]
        codes = [_codes(builder, value, first) for value in values]
        kept = [builder.and_(value, _each(_KEPT)) for value in values]
        for line in range(len(VECTORS) // _MEMBERS):
            low, high = kept[_MEMBERS * line : _MEMBERS * (line + 1)]
            both = builder.or_(low, _swapped(builder, high))
            store(builder, both, at(builder, target, line, VECTOR_BYTES))
        together = codes[0]
        for index, code in enumerate(codes[1:], start=1):
            together = builder.or_(together, builder.shl(code, _each(_CODE_BITS * index)))
        store(builder, together, at(builder, target, len(VECTORS) // _MEMBERS, VECTOR_BYTES))
        return _num_exceptions(builder, values, codes)

    return types.int64(vectors, least, target), generate


def _broadcast(builder: Builder, value: Value) -> Value:
    """A value of 16 bits in each place of a vector."""
    undefined = ir.Constant(_HALVES, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), 2 * WIDTH), [0] * 2 * WIDTH)
    return builder.shuffle_vector(first, undefined, lanes)


def _codes(builder: Builder, values: Value, least: Value) -> Value:
    above = builder.sub(_exponents(builder, values), least)
    has_code = builder.icmp_unsigned("<", above, _each(NUM_CODES))
    return builder.select(has_code, builder.add(above, _each(1)), _each(0))


def _num_exceptions(builder: Builder, values: Sequence[Value], codes: Sequence[Value]) -> Value:
    total: Value = ADDRESS(0)
    bits = ir.IntType(2 * WIDTH)
    for value, code in zip(values, codes, strict=True):
        has_none = builder.icmp_unsigned("==", code, _each(0))
        is_needed = builder.icmp_unsigned("!=", _exponents(builder, value), _each(0))
        mask = builder.bitcast(builder.and_(has_none, is_needed), bits)
        count = call(builder, "llvm.ctpop.i32", bits, mask)
        total = builder.add(total, builder.zext(count, ADDRESS))
    return total


def _exponents(builder: Builder, values: Value) -> Value:
    return builder.and_(builder.lshr(values, _each(EXPONENT_SHIFT)), _each(0xFF))


def _swapped(builder: Builder, halves: Value) -> Value:
    """The two bytes of each value in the other order."""
    return call(builder, "llvm.fshl.v32i16", _HALVES, halves, halves, _each(8))


def _load(builder: Builder, address: Value, index: int) -> Value:
    return load(builder, at(builder, address, index, VECTOR_BYTES), _HALVES)


def _each(value: int) -> Value:
    return ir.Constant(_HALVES, [value] * 2 * WIDTH)
