"""Weights of four bits made bytes, which products multiply like those of eight."""

from llvmlite import ir

from martlet.models.machine_code.emit import (
    BYTE,
    BYTES,
    HALF,
    INT,
    INTS,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    Builder,
    Value,
    at,
    each,
    load,
    repeat,
)
from martlet.models.machine_code.kind import PANEL, WEIGHT_ZERO
from martlet.models.machine_code.tile import COLUMNS, STEP_BYTES
from martlet.models.machine_code.worker import known_function, new_function

_HALVES = ir.VectorType(HALF, 2 * LANES)
_NIBBLE = 4
_READ_TO_SECOND_LEVEL = (INT(0), INT(2), INT(1))
"""How memory is asked for: to be read, to the cache's second level, as data."""


def write_unpacking(module: ir.Module, part_size: int) -> ir.Function:
    """A function of a group of inputs of a panel.

    A stored value `q` becomes `(q - zero) * multiplier + 128`, a byte. Its parameters are the
    stored values, the multipliers and zeros, where the bytes go, and the number of parts. Memory is
    asked for the next group meanwhile, so that it comes while this one is multiplied.
    """
    prefetch = known_function(module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, INT, INT, INT])
    function, b = new_function(module, "unpack", [POINTER] * 3 + [WORD])
    stored, multipliers, out, num_parts = function.args
    part_bytes = part_size * PANEL // 2

    def part(number: Value, _: list[Value]) -> list[Value]:
        factors, added = _factors(b, at(b, multipliers, b.mul(number, WORD(PANEL))))
        source = at(b, stored, b.mul(number, WORD(part_bytes)))
        target = at(b, out, b.mul(number, WORD(2 * part_bytes)))

        def two_steps(step: Value, _: list[Value]) -> list[Value]:
            here = at(b, source, b.mul(step, WORD(STEP_BYTES)))
            to = at(b, target, b.mul(step, WORD(2 * STEP_BYTES)))
            ahead = at(b, here, b.mul(num_parts, WORD(part_bytes)))
            for column in COLUMNS:
                place = VECTOR_BYTES * column
                b.call(prefetch, [at(b, ahead, WORD(place)), *_READ_TO_SECOND_LEVEL])
                both = load(b, BYTES, here, WORD(place), align=VECTOR_BYTES)
                for half, values in enumerate(_halves(b, both)):
                    # Products stay below 256: the bytes of a pair do not meet.
                    scaled = b.mul(b.bitcast(values, _HALVES), factors[column])
                    weights = b.add(b.bitcast(scaled, BYTES), added[column])
                    b.store(weights, at(b, to, WORD(place + half * STEP_BYTES)), align=VECTOR_BYTES)
            return []

        repeat(b, WORD(part_bytes // STEP_BYTES), [], two_steps)
        return []

    repeat(b, num_parts, [], part)
    b.ret_void()
    return function


def _halves(b: Builder, both: Value) -> tuple[Value, Value]:
    """The lower and the upper halves of bytes."""
    return b.and_(both, each(BYTES, 15)), b.lshr(both, each(BYTES, _NIBBLE))


def _factors(b: Builder, multipliers: Value) -> tuple[list[Value], list[Value]]:
    """What the values of a part are multiplied with, and what is added then, by columns."""
    factors, added = [], []
    for column in COLUMNS:
        both = load(b, ir.VectorType(BYTE, LANES), multipliers, WORD(LANES * column))
        both = b.zext(both, INTS)
        multiplier, zero = b.and_(both, each(INTS, 15)), b.lshr(both, each(INTS, _NIBBLE))
        rest = b.sub(each(INTS, WEIGHT_ZERO), b.mul(multiplier, zero))
        factors.append(b.bitcast(_repeated(b, multiplier, 16), _HALVES))
        added.append(b.bitcast(_repeated(b, _repeated(b, rest, 8), 16), BYTES))
    return factors, added


def _repeated(b: Builder, numbers: Value, bits: int) -> Value:
    """Numbers of so many bits, once more in as many bits above."""
    return b.or_(numbers, b.shl(numbers, each(INTS, bits)))
