"""How weights of four bits become bytes, in registers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from martlet.models.machine_code.emit import (
    BYTE,
    BYTES,
    HALF,
    INTS,
    LANES,
    VECTOR_BYTES,
    WORD,
    Builder,
    Value,
    each,
    load,
)
from martlet.models.machine_code.kind import MULTIPLIERS, STEPS, WEIGHT_ZERO, ProductKind
from martlet.models.machine_code.worker import known_function

_HALVES = ir.VectorType(HALF, 2 * LANES)
_NIBBLE = 4
_NUM_VALUES = 1 << _NIBBLE
_IN_EACH_BYTE, _IN_EACH_HALF = 0x01010101, 0x00010001
"""Times a byte: a word that has it four times, or twice."""


def halves(b: Builder, both: Value) -> tuple[Value, Value]:
    """The lower and the upper halves of bytes.

    Words are shifted: for bytes LLVM takes an instruction (`vgf2p8affineqb`) that waits for the
    same pipes as those that multiply.
    """
    mask = each(BYTES, 15)
    shifted = b.lshr(b.bitcast(both, _HALVES), each(_HALVES, _NIBBLE))
    return b.and_(both, mask), b.and_(b.bitcast(shifted, BYTES), mask)


def numbers_of_codes(module: ir.Module, b: Builder, numbers: Sequence[int], codes: Value) -> Value:
    """For each output the number that its code's lower half stands for."""
    # It reads the lower half alone.
    permute = known_function(module, "llvm.x86.avx512.permvar.si.512", INTS, [INTS] * 2)
    return b.call(permute, [ir.Constant(INTS, list(numbers)), codes])


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """What a part's values become bytes by: `(q - zero) * multiplier + 128` is a byte."""

    multiplied: Callable[[Value], Value]
    """Writes the bytes of values, each times the multiplier of its output."""
    added: Value
    """In bytes: 128 less the zero, multiplied."""

    def applied(self, b: Builder, values: Value) -> Value:
        """The bytes of values."""
        return b.add(self.multiplied(values), self.added)


class Unpacking:
    """Writes what becomes of the codes of a column, a byte for each output.

    Args:
        looks_up: Whether values are multiplied by looking up their products.
    """

    def __init__(
        self, module: ir.Module, b: Builder, kind: ProductKind, codes: Value, *, looks_up: bool
    ) -> None:
        self._module, self._b, self._kind, self._looks_up = module, b, kind, looks_up
        self._codes = b.zext(load(b, ir.VectorType(BYTE, LANES), codes, WORD(0)), INTS)

    def factors(self, part: int) -> Factors:
        """Those of a part of a code: a zero or, of each half of it, a multiplier and a zero."""
        b = self._b
        if self._kind.has_group_scales:
            zeros = b.bitcast(b.mul(self._codes, each(INTS, _IN_EACH_BYTE)), BYTES)
            added = b.sub(each(BYTES, WEIGHT_ZERO), zeros)
            return Factors(multiplied=lambda values: values, added=added)
        codes = b.lshr(self._codes, each(INTS, _NIBBLE)) if part else self._codes
        write = self._product_in_table if self._looks_up else self._product
        added = [(WEIGHT_ZERO - m * zero) % 256 * _IN_EACH_BYTE for m, zero in STEPS]
        return Factors(multiplied=write(codes), added=self._of_codes(added, codes))

    def _product(self, codes: Value) -> Callable[[Value], Value]:
        b = self._b
        # In halves of a word: products stay below 256, so the bytes of a pair do not meet.
        numbers = self._of_codes([m * _IN_EACH_HALF for m, _ in STEPS], codes)
        multipliers = b.bitcast(numbers, _HALVES)
        return lambda values: b.bitcast(b.mul(b.bitcast(values, _HALVES), multipliers), BYTES)

    def _product_in_table(self, codes: Value) -> Callable[[Value], Value]:
        """As `_product`: a multiplier has a row of 16 products, and the table two registers."""
        b, kinds = self._b, [BYTES] * 3
        look_up = known_function(self._module, "llvm.x86.avx512.vpermi2var.qi.512", BYTES, kinds)
        products = [m * value for m in MULTIPLIERS for value in range(_NUM_VALUES)]
        low = ir.Constant(BYTES, products[:VECTOR_BYTES])
        high = ir.Constant(BYTES, products[VECTOR_BYTES:])
        rows = [MULTIPLIERS.index(m) * _NUM_VALUES * _IN_EACH_BYTE for m, _ in STEPS]
        places = self._of_codes(rows, codes)
        return lambda values: b.call(look_up, [low, b.or_(values, places), high])

    def _of_codes(self, numbers: Sequence[int], codes: Value) -> Value:
        """As `numbers_of_codes`, in bytes."""
        b = self._b
        return b.bitcast(numbers_of_codes(self._module, b, numbers, codes), BYTES)
