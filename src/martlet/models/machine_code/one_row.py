"""A panel of weights of four bits for one row, whose time is that of memory.

No byte is made of a weight: a part's values meet the tokens as they are stored, and what comes of
the part is multiplied, where other tiles multiply each value.

    sum((q - zero) * multiplier * x) = multiplier * sum(q * x) - multiplier * zero * sum(x)

Both sides are whole numbers, so the row has the bits that it has in a crowd. Weights are read in
the order in which they lie, from end to end: memory is not asked for any, the CPU foresees them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir

from martlet.models.machine_code.emit import (
    BYTE,
    BYTES,
    FLOAT,
    FLOATS,
    INT,
    INTS,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    Builder,
    Value,
    allocate,
    at,
    each,
    load,
    load_each,
    repeat,
)
from martlet.models.machine_code.kind import PANEL, STEPS, ProductKind
from martlet.models.machine_code.tile import COLUMNS, STEP_BYTES
from martlet.models.machine_code.tile_rows import STEP
from martlet.models.machine_code.unpacking import halves, numbers_of_codes
from martlet.models.machine_code.worker import known_function, new_function

_PART_SIZE = 16
_NUMBER_BYTES = 4
_CODE_BITS = 4
_TIMES = [multiplier for multiplier, _ in STEPS]
_LESS = [-multiplier * zero & 0xFFFF for multiplier, zero in STEPS]
"""What sums are multiplied with in their lower 16 bits, those of values times tokens and those of
tokens; the upper ones meet zeros."""
_FOUR_ONES = 0x01010101
_QUARTER = ir.VectorType(INT, 4)


class _Places(NamedTuple):
    """Addresses: of the row's values and the sums of their parts, of weights and their codes."""

    values: Value
    sums: Value
    stored: Value
    codes: Value


class OneRow:
    """Writes the code.

    Args:
        module: Where its function is written to.
        kind: One that it `is_for`.
    """

    def __init__(self, module: ir.Module, kind: ProductKind) -> None:
        self._module, self._kind = module, kind
        pairs, dot = "llvm.x86.avx512.vpdpwssd.512", "llvm.x86.avx512.vpdpbusd"
        self._dot = known_function(module, f"{dot}.512", INTS, [INTS] * 3)
        self._dot_of_part = known_function(module, f"{dot}.128", _QUARTER, [_QUARTER] * 3)
        self._dot_of_pairs = known_function(module, pairs, INTS, [INTS] * 3)
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)
        self._sum_of = known_function(module, "llvm.vector.reduce.add.v4i32", INT, [_QUARTER])
        self._function = self._write()

    @staticmethod
    def is_for(kind: ProductKind) -> bool:
        """Whether weights have parts whose sums fit into 16 bits, and steps, see `STEPS`."""
        return kind.part_size == _PART_SIZE and not kind.has_group_scales

    def prepare(self, b: Builder, values: Value, num_rows: Value, width: Value) -> Value:
        """The sums of the values of each part, in 32 bits, if there is one row."""
        num_parts = b.udiv(width, WORD(_PART_SIZE))
        sums = allocate(b, b.mul(num_parts, WORD(_NUMBER_BYTES)))
        ones, zeros = (ir.Constant(_QUARTER, [value] * 4) for value in (_FOUR_ONES, 0))

        def part(number: Value, _: list[Value]) -> list[Value]:
            inputs = load(b, _QUARTER, values, b.mul(number, WORD(_PART_SIZE)))
            total = b.call(self._sum_of, [b.call(self._dot_of_part, [zeros, ones, inputs])])
            b.store(total, at(b, sums, b.mul(number, WORD(_NUMBER_BYTES))), align=_NUMBER_BYTES)
            return []

        with b.if_then(b.icmp_unsigned("==", num_rows, WORD(1))):
            repeat(b, num_parts, [], part)
        return sums

    def panel(self, b: Builder, *arguments: Value) -> None:
        """Computes a panel's totals; see `_write`."""
        b.call(self._function, list(arguments))

    def _write(self) -> ir.Function:
        """Its parameters: the row's values, the sums of their parts, and its scales; the panel's
        stored weights and their codes; the totals `[panel]` in fp32, written; the inputs of a
        group, and the number of groups."""
        function, b = new_function(self._module, "one_row", [POINTER] * 6 + [WORD] * 2)
        values, sums, scales, stored, codes, totals, size, num_groups = function.args
        places = _Places(values, sums, stored, codes)
        units_of_group = b.udiv(size, WORD(self._kind.inputs_of_code))

        def group(number: Value, before: list[Value]) -> list[Value]:
            first = b.mul(number, units_of_group)

            def unit(index: Value, products: list[Value]) -> list[Value]:
                return self._unit(b, b.add(first, index), products, places)

            zeros = [each(INTS, 0)] * len(COLUMNS)
            products = repeat(b, units_of_group, zeros, unit)
            scale = load_each(b, FLOAT, scales, b.mul(number, WORD(_NUMBER_BYTES)))
            return [
                b.call(self._fma, [b.sitofp(product, FLOATS), scale, total])
                for product, total in zip(products, before, strict=True)
            ]

        zeros = [b.bitcast(each(INTS, 0), FLOATS)] * len(COLUMNS)
        for column, total in enumerate(repeat(b, num_groups, zeros, group)):
            b.store(total, at(b, totals, WORD(VECTOR_BYTES * column)), align=VECTOR_BYTES)
        b.ret_void()
        return function

    def _unit(
        self, b: Builder, index: Value, products: Sequence[Value], places: _Places
    ) -> list[Value]:
        """Adds the products of the parts that share codes."""
        num_parts = self._kind.parts_of_code
        part = b.mul(index, WORD(num_parts))
        part_bytes = _PART_SIZE * PANEL // self._kind.weights_of_byte
        sums = at(b, places.sums, b.mul(part, WORD(_NUMBER_BYTES)))
        inputs = at(b, places.values, b.mul(part, WORD(_PART_SIZE)))
        stored = at(b, places.stored, b.mul(part, WORD(part_bytes)))
        codes = at(b, places.codes, b.mul(index, WORD(PANEL)))
        results = []
        for column, product in enumerate(products):
            of_column = load(b, ir.VectorType(BYTE, LANES), codes, WORD(LANES * column))
            code = b.zext(of_column, INTS)
            for number in range(num_parts):
                here = at(b, stored, WORD(number * part_bytes + column * VECTOR_BYTES))
                sum_ = self._part(b, here, at(b, inputs, WORD(number * _PART_SIZE)))
                of_values = load_each(b, INT, sums, WORD(number * _NUMBER_BYTES))
                times, less = (
                    numbers_of_codes(self._module, b, numbers, code) for numbers in (_TIMES, _LESS)
                )
                product = b.call(self._dot_of_pairs, [product, sum_, times])
                product = b.call(self._dot_of_pairs, [product, less, of_values])
                code = b.lshr(code, each(INTS, _CODE_BITS))
            results.append(product)
        return results

    def _part(self, b: Builder, stored: Value, inputs: Value) -> Value:
        """The sums of the values of a part, times the tokens'."""
        sums, place = each(INTS, 0), 0
        for step in range(_PART_SIZE // (2 * STEP)):
            both = load(b, BYTES, stored, WORD(step * STEP_BYTES), align=VECTOR_BYTES)
            for weights in halves(b, both):
                x = load_each(b, INT, inputs, WORD(place))
                sums = b.call(self._dot, [sums, b.bitcast(weights, INTS), x])
                place += STEP
        return sums
