"""Pieces of LLVM code that the functions of this package are put together from.

Vectors have 16 values of 32 bits, the width of an AVX-512 register. `b` is the builder that writes
the next instruction.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

Builder = Any
Value = Any
"""Of an instruction: llvmlite names no types that a checker could follow."""

LANES = 16
VECTOR_BYTES = 64
BYTE, HALF, INT, WORD = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLAG, FLOAT, POINTER = ir.IntType(1), ir.FloatType(), ir.PointerType()
INTS, HALVES, FLOATS, WORDS = (ir.VectorType(kind, LANES) for kind in (INT, HALF, FLOAT, WORD))
BYTES = ir.VectorType(BYTE, VECTOR_BYTES)
_BF16_SHIFT = 16
_NAN = 0x7FC00000


def each(kind: ir.VectorType, value: int) -> Value:
    """A constant vector of one value."""
    return ir.Constant(kind, [value] * kind.count)


def at(b: Builder, pointer: Value, num_bytes: Value) -> Value:
    """The address so many bytes behind another."""
    return b.gep(pointer, [num_bytes], source_etype=BYTE)


def load(b: Builder, kind: ir.Type, pointer: Value, num_bytes: Value, *, align: int = 1) -> Value:
    return b.load(at(b, pointer, num_bytes), typ=kind, align=align)


def allocate(b: Builder, num_bytes: Value) -> Value:
    """The address of memory on the stack, until the function returns."""
    memory = b.alloca(BYTE, num_bytes)
    memory.align = VECTOR_BYTES
    # llvmlite gives it a type of its own, of a pointer to bytes.
    return b.inttoptr(b.ptrtoint(memory, WORD), POINTER)


def broadcast(b: Builder, value: Value) -> Value:
    """A vector of one value."""
    kind = ir.VectorType(value.type, LANES)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, INT(0))
    return b.shuffle_vector(first, first, each(INTS, 0))


def load_each(b: Builder, kind: ir.Type, pointer: Value, num_bytes: Value) -> Value:
    """A vector of the one value that lies at an address."""
    return broadcast(b, load(b, kind, pointer, num_bytes))


def from_bf16(b: Builder, halves: Value) -> Value:
    """fp32, of the bits of bf16."""
    bits = b.shl(b.zext(halves, INTS), each(INTS, _BF16_SHIFT))
    return b.bitcast(bits, FLOATS)


def to_bf16(b: Builder, floats: Value) -> Value:
    """The bits of the nearest bf16, of two the even one."""
    bits = b.bitcast(floats, INTS)
    odd = b.and_(b.lshr(bits, each(INTS, _BF16_SHIFT)), each(INTS, 1))
    rounded = b.add(bits, b.add(odd, each(INTS, 0x7FFF)))
    is_nan = b.fcmp_unordered("uno", floats, floats)
    bits = b.select(is_nan, each(INTS, _NAN), rounded)
    return b.trunc(b.lshr(bits, each(INTS, _BF16_SHIFT)), HALVES)


def repeat(
    b: Builder,
    count: Value,
    carried: Sequence[Value],
    round_: Callable[[Value, list[Value]], Sequence[Value]],
) -> list[Value]:
    """A loop that runs at least once.

    Args:
        carried: What goes from each round to the next, before the first.
        round_: Writes a round; given its number and what is carried, it returns what is carried on.

    Returns:
        What is carried, after the last.
    """
    before, start = b.block, b.append_basic_block("round")
    b.branch(start)
    b.position_at_end(start)
    kinds = [count.type, *(value.type for value in carried)]
    number, *values = phis = [b.phi(kind) for kind in kinds]
    results = list(round_(number, values))
    following = b.add(number, count.type(1))
    for phi, first, later in zip(
        phis, [count.type(0), *carried], [following, *results], strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(later, b.block)
    after = b.append_basic_block("after")
    b.cbranch(b.icmp_unsigned("<", following, count), start, after)
    b.position_at_end(after)
    return results


def advance(
    b: Builder, first: Value, end: Value, stride: int, round_: Callable[[Value], None]
) -> Value:
    """A loop from a number on, in strides, as long as whole ones fit in.

    Returns:
        The number where it ended.
    """
    before = b.block
    check, body, after = (b.append_basic_block(name) for name in ("check", "stride", "rest"))
    b.branch(check)
    b.position_at_end(check)
    number = b.phi(first.type)
    following = b.add(number, first.type(stride))
    b.cbranch(b.icmp_unsigned("<=", following, end), body, after)
    b.position_at_end(body)
    round_(number)
    number.add_incoming(first, before)
    number.add_incoming(following, b.block)
    b.branch(check)
    b.position_at_end(after)
    return number


def ceil_div(b: Builder, value: Value, divisor: int) -> Value:
    kind = value.type
    return b.udiv(b.add(value, kind(divisor - 1)), kind(divisor))


def smaller(b: Builder, left: Value, right: Value) -> Value:
    return b.select(b.icmp_unsigned("<", left, right), left, right)


def larger(b: Builder, left: Value, right: Value) -> Value:
    return b.select(b.icmp_unsigned(">", left, right), left, right)
