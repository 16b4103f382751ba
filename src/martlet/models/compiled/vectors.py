"""Vectors of bf16 pairs, in functions that numba compiles.

The CPU's `vdpbf16ps` multiplies 32 bf16 values with 32 others and adds neighbouring products to 16
sums in fp32. No loop in Python is compiled to it, so the inner loops that need it are written as
LLVM's own instructions, with these functions. Memory is passed by address.

A pair is two neighbouring bf16 values, four bytes that are moved as one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

WIDTH = 16
"""Pairs, or sums, in a vector."""
_POWERS = (0.99999926, 0.69312181, 0.24024745, 0.05591786, 0.0095701)
"""Of a polynomial that is 2 ** x between -1/2 and 1/2, to 2.6e-6 of it: much less than a bf16."""
_SCALE = "llvm.x86.avx512.mask.scalef.ps.512"
PAIR_BYTES, VECTOR_BYTES = 4, 64

Builder = Any
Value = Any
"""What LLVM computes, as llvmlite writes it down; neither library is typed."""


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite is not typed
    """LLVM's bf16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


ADDRESS = ir.IntType(64)
SUMS = ir.VectorType(ir.FloatType(), WIDTH)
PAIRS = ir.VectorType(ir.IntType(32), WIDTH)
_VALUES = ir.VectorType(_BFloat(), 2 * WIDTH)
_ROUNDED = ir.VectorType(_BFloat(), WIDTH)
LANE = ir.IntType(32)


def load(builder: Builder, address: Value, kind: Any) -> Value:
    """What lies at an address, aligned or not."""
    return builder.load(builder.inttoptr(address, ir.PointerType()), align=4, typ=kind)


def store(builder: Builder, value: Value, address: Value) -> None:
    """Writes to an address, aligned or not."""
    builder.store(value, builder.inttoptr(address, ir.PointerType()), align=2)


def at(builder: Builder, address: Value, index: Value, num_bytes: Value) -> Value:
    """The address of an element by its index, the elements being so many bytes apart."""
    index, num_bytes = (ADDRESS(v) if isinstance(v, int) else v for v in (index, num_bytes))
    return builder.add(address, builder.mul(index, num_bytes))


def constant(value: float) -> Value:
    """A number in each lane."""
    return ir.Constant(SUMS, [value] * WIDTH)


def broadcast(builder: Builder, value: Value) -> Value:
    """A number or a pair, sixteen times."""
    kind = ir.VectorType(value.type, WIDTH)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, LANE(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(PAIRS, [0] * WIDTH))


def broadcast_pair(builder: Builder, address: Value) -> Value:
    """The pair at an address, sixteen times."""
    return broadcast(builder, load(builder, address, PAIRS.element))


def add_products(builder: Builder, sums: Value, left: Value, right: Value) -> Value:
    """Adds the products of two vectors of pairs to sixteen sums."""
    values = [builder.bitcast(pairs, _VALUES) for pairs in (left, right)]
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", SUMS, sums, *values)


def round_sums(builder: Builder, sums: Value) -> Value:
    """Sixteen sums as bf16 values, to the nearest."""
    return builder.fptrunc(sums, _ROUNDED)


def widen(builder: Builder, address: Value) -> Value:
    """Sixteen bf16 values at an address, in fp32."""
    halves = load(builder, address, ir.VectorType(ir.IntType(16), WIDTH))
    bits = builder.shl(builder.zext(halves, PAIRS), ir.Constant(PAIRS, [16] * WIDTH))
    return builder.bitcast(bits, SUMS)


def power_of_two(builder: Builder, x: Value, *, least: int = -126) -> Value:
    """`2 ** x` in each lane, where x is not below the least; NaN stays NaN."""
    lowest = constant(least)
    x = builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)
    whole = call(builder, "llvm.rint.v16f32", SUMS, x)
    rest = builder.fsub(x, whole)
    power = constant(_POWERS[-1])
    for coefficient in _POWERS[-2::-1]:
        power = multiply_add(builder, power, rest, constant(coefficient))
    all_lanes, current_rounding = ir.IntType(16)(-1), LANE(4)
    return call(builder, _SCALE, SUMS, power, whole, power, all_lanes, current_rounding)


def multiply_add(builder: Builder, left: Value, right: Value, added: Value) -> Value:
    """`left * right + added`, rounded once."""
    return call(builder, "llvm.fma.v16f32", SUMS, left, right, added)


def sum_of(builder: Builder, vector: Value) -> Value:
    """The sum of the lanes, in an order of the CPU's choice."""
    kind = ir.FunctionType(SUMS.element, (SUMS.element, SUMS))
    name = "llvm.vector.reduce.fadd.v16f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, (ir.Constant(SUMS.element, 0.0), vector), fastmath=("reassoc",))


def larger(builder: Builder, new: Value, known: Value) -> Value:
    """The larger of each lane; what is known where the new one is NaN."""
    return builder.select(builder.fcmp_ordered(">", new, known), new, known)


def largest_lane(builder: Builder, vector: Value) -> Value:
    """Of lanes none of which is NaN."""
    kind = ir.FunctionType(SUMS.element, (SUMS,))
    name = "llvm.vector.reduce.fmax.v16f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, (vector,), fastmath=("nnan",))


def call(builder: Builder, name: str, returned: Any, *arguments: Value) -> Value:
    """Calls one of LLVM's functions."""
    kind = ir.FunctionType(returned, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def transpose(builder: Builder, rows: Sequence[Value]) -> list[Value]:
    """Sixteen vectors of sixteen pairs, turned: in each stage, squares of pairs change places."""
    turned = list(rows)
    for size in (1, 2, 4, 8):
        low = [lane if not lane & size else WIDTH + (lane ^ size) for lane in range(WIDTH)]
        high = [lane | size if not lane & size else WIDTH + lane for lane in range(WIDTH)]
        for index in range(WIDTH):
            if not index & size:
                two = turned[index], turned[index | size]
                turned[index] = _pick(builder, *two, low)
                turned[index | size] = _pick(builder, *two, high)
    return turned


def _pick(builder: Builder, left: Value, right: Value, lanes: Sequence[int]) -> Value:
    """Lanes of two vectors, those of the second counted on from the first's."""
    mask = ir.Constant(ir.VectorType(LANE, len(lanes)), list(lanes))
    return builder.shuffle_vector(left, right, mask)


def prefetch_line(builder: Builder, address: Value) -> None:
    """Has 64 bytes brought to the second level of the cache."""
    reading, second_level, data = LANE(0), LANE(2), LANE(1)
    place = builder.inttoptr(address, ir.PointerType())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), place, reading, second_level, data)


def compiled(function: Any) -> Any:
    """Compiles a function from a pointer to whole numbers to nothing, for `threads.run`.

    What was compiled is kept for later processes, where there is a place that it may be written to.
    """
    signature = types.void(types.CPointer(types.int64))
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:
        return cfunc(signature)(function)


def of_kind(kind: str) -> Callable[[Any], Any]:
    """Names a function that is made for several kinds, before numba sees it.

    What numba kept of a function, it finds by its name, and so do those that call it: of two of one
    name that different processes compiled, the first that is loaded would be both.
    """

    def name(function: Any) -> Any:
        function.__qualname__ = f"{function.__qualname__}.{kind}"
        return function

    return name


@intrinsic  # type: ignore[untyped-decorator]
def fetch_add(_: Any, address: Any, amount: Any) -> Any:
    """Adds to the whole number at an address, as one step among all threads; what was there."""

    def generate(_: Any, builder: Builder, __: Any, arguments: Sequence[Value]) -> Value:
        place = builder.inttoptr(arguments[0], ir.PointerType())
        return builder.atomic_rmw("add", place, arguments[1], "monotonic")

    return types.intp(address, amount), generate


@intrinsic  # type: ignore[untyped-decorator]
def floats_at(_: Any, address: Any) -> Any:
    """The fp32 numbers at an address."""
    return types.CPointer(types.float32)(address), _as_pointer


@intrinsic  # type: ignore[untyped-decorator]
def numbers_at(_: Any, address: Any) -> Any:
    """The whole numbers of 64 bits at an address."""
    return types.CPointer(types.int64)(address), _as_pointer


@intrinsic  # type: ignore[untyped-decorator]
def counts_at(_: Any, address: Any) -> Any:
    """The whole numbers of 32 bits at an address."""
    return types.CPointer(types.int32)(address), _as_pointer


@intrinsic  # type: ignore[untyped-decorator]
def bytes_at(_: Any, address: Any) -> Any:
    """The whole numbers of 8 bits, without a sign, at an address."""
    return types.CPointer(types.uint8)(address), _as_pointer


@intrinsic  # type: ignore[untyped-decorator]
def halves_at(_: Any, address: Any) -> Any:
    """The whole numbers of 16 bits, without a sign, at an address."""
    return types.CPointer(types.uint16)(address), _as_pointer


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, address: Any, num_bytes: Any) -> Any:
    """Has memory brought to the second level of the cache while other things are computed."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Sequence[Value]) -> Value:
        address, num_bytes = arguments
        lines = builder.udiv(num_bytes, ADDRESS(VECTOR_BYTES))
        with cgutils.for_range(builder, lines) as loop:
            prefetch_line(builder, at(builder, address, loop.index, VECTOR_BYTES))
        return context.get_dummy_value()

    return types.void(address, num_bytes), generate


@intrinsic  # type: ignore[untyped-decorator]
def round_to(_: Any, sums: Any, num_vectors: Any, values: Any) -> Any:
    """Writes vectors of fp32 sums at one address as bf16 values to another."""

    def generate(context: Any, builder: Builder, _: Any, arguments: Sequence[Value]) -> Value:
        sums, num_vectors, values = arguments
        with cgutils.for_range(builder, num_vectors) as loop:
            vector = load(builder, at(builder, sums, loop.index, VECTOR_BYTES), SUMS)
            target = at(builder, values, loop.index, VECTOR_BYTES // 2)
            store(builder, round_sums(builder, vector), target)
        return context.get_dummy_value()

    return types.void(sums, num_vectors, values), generate


def _as_pointer(context: Any, builder: Builder, signature: Any, arguments: Sequence[Value]) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))
