"""The first tile of a group of weights of four bits, which makes bytes of them for all tiles."""

from collections.abc import Sequence

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
from martlet.models.machine_code.kind import PANEL, STEP_BITS, WEIGHT_ZERO, ProductKind
from martlet.models.machine_code.tile import COLUMNS, STEP_BYTES, group_scales
from martlet.models.machine_code.tile_rows import TileRows
from martlet.models.machine_code.worker import known_function, new_function

_HALVES = ir.VectorType(HALF, 2 * LANES)
_BYTE_BITS, _NIBBLE_BITS = 8, 4
_PARAMETERS = [POINTER] * 8 + [WORD]
_READ_TO_SECOND_LEVEL = (INT(0), INT(2), INT(1))
"""How memory is asked for: to be read, to the cache's second level, as data."""


def write_first_tiles(
    module: ir.Module, kind: ProductKind, counts: Sequence[int]
) -> ir.Function:
    """A function that calls the first tile of as many rows as there are, and returns their number.

    Args:
        counts: Of rows, for each a tile, down to one. The parameters are the number of rows that
            there are, and then those of the tile.
    """
    tiles = [(count, _write_first_tile(module, kind, count)) for count in counts]
    function = ir.Function(module, ir.FunctionType(WORD, [WORD, *_PARAMETERS]), "first_tile")
    b = ir.IRBuilder(function.append_basic_block("begin"))
    num_rows, *others = function.args
    for count, tile in tiles:
        with b.if_then(b.icmp_unsigned(">=", num_rows, WORD(count))):
            b.call(tile, others)
            b.ret(WORD(count))
    b.ret(WORD(0))
    return function


def _write_first_tile(module: ir.Module, kind: ProductKind, num_rows: int) -> ir.Function:
    """A function that does what a tile does, and writes the weights' bytes for the next.

    The instructions that unpack find room between those that multiply. Its parameters are those of
    a tile, with the stored weights for their bytes, then the parts' steps or zeros, and where the
    bytes go. Memory is asked for the next group meanwhile.
    """
    assert kind.part_size is not None
    part_steps = kind.part_size * PANEL // 2 // STEP_BYTES
    function, b = new_function(module, f"first_tile_of_{num_rows}", _PARAMETERS)
    *tokens, stored, weight_scales, parts, out, totals, size = function.args
    rows = TileRows(module, b, num_rows, tuple(tokens), totals, size)
    prefetch = known_function(module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, INT, INT, INT])
    group_bytes = b.mul(size, WORD(PANEL // 2))

    def column(number: Value, _: list[Value]) -> list[Value]:
        across = b.mul(number, WORD(VECTOR_BYTES))
        source, target = at(b, stored, across), at(b, out, across)
        of_column = at(b, parts, b.mul(number, WORD(LANES)))

        def part(index: Value, sums: list[Value]) -> list[Value]:
            unpack = _Unpacking(module, b, kind, at(b, of_column, b.mul(index, WORD(PANEL))))
            before = b.mul(index, WORD(part_steps))

            def two_steps(inner: Value, sums: list[Value]) -> list[Value]:
                step = b.add(before, inner)
                here = at(b, source, b.mul(step, WORD(STEP_BYTES)))
                to = at(b, target, b.mul(step, WORD(2 * STEP_BYTES)))
                b.call(prefetch, [at(b, here, group_bytes), *_READ_TO_SECOND_LEVEL])
                weights = unpack.both(load(b, BYTES, here, WORD(0), align=VECTOR_BYTES))
                results = list(sums)
                for half, bytes_ in enumerate(weights):
                    b.store(bytes_, at(b, to, WORD(half * STEP_BYTES)), align=VECTOR_BYTES)
                    place = b.add(b.mul(step, WORD(2)), WORD(half))
                    for row in rows.numbers:
                        index = row + half * num_rows
                        results[index] = rows.multiply(
                            sums[index], b.bitcast(bytes_, INTS), rows.inputs(row, place)
                        )
                return results

            return repeat(b, WORD(part_steps), sums, two_steps)

        # Two sums a row: an instruction need not wait for the one before.
        first = [*map(rows.first_sum, rows.numbers), *(each(INTS, 0) for _ in rows.numbers)]
        sums = repeat(b, b.udiv(size, WORD(kind.part_size)), first, part)
        scales = group_scales(b, kind, weight_scales, number)
        for row in rows.numbers:
            rows.add(row, number, b.add(sums[row], sums[row + num_rows]), scales)
        return []

    repeat(b, WORD(len(COLUMNS)), [], column)
    b.ret_void()
    return function


class _Unpacking:
    """Writes how the stored values of a part become bytes, in vectors of halves of a word.

    A value `q` becomes `floor(q * step / 8) - step + 128` or, with a zero, `q - zero + 128`. A step
    may be negative.
    """

    def __init__(self, module: ir.Module, b: Builder, kind: ProductKind, part: Value) -> None:
        self._b = b
        self._high = known_function(module, "llvm.x86.avx512.pmulhu.w.512", _HALVES, [_HALVES] * 2)
        numbers = b.sext(load(b, ir.VectorType(BYTE, LANES), part, WORD(0)), INTS)
        if kind.has_group_scales:
            whole = 1 << STEP_BITS
            steps, self._added = each(_HALVES, whole), self._minus(numbers)
        else:
            steps, self._added = self._repeated(numbers), self._minus(numbers)
        # Sixteenths times 16 are 256ths: the whole number is the higher byte of a half.
        self._sixteenths = b.shl(steps, each(_HALVES, _NIBBLE_BITS - STEP_BITS))
        self._times_16 = b.shl(self._sixteenths, each(_HALVES, _NIBBLE_BITS))

    def both(self, stored: Value) -> tuple[Value, Value]:
        """The bytes of two steps.

        A half holds the higher byte of the first step in its lowest bits, then that of the second,
        and above them the two lower bytes.
        """
        b = self._b
        halves = b.bitcast(stored, _HALVES)
        masks = [each(_HALVES, 15 << _NIBBLE_BITS * place) for place in range(4)]
        nibbles = [b.and_(halves, mask) for mask in masks]
        factors = (self._times_16, self._sixteenths)
        higher = [b.mul(nibble, by) for nibble, by in zip(nibbles[:2], factors, strict=True)]
        lower = [b.call(self._high, [nibble, by]) for nibble, by in zip(nibbles[2:], factors, strict=True)]
        mask = each(_HALVES, 255 << _BYTE_BITS)
        first, second = (
            b.add(
                b.bitcast(b.or_(b.and_(high, mask), b.and_(low, b.not_(mask))), BYTES), self._added
            )
            for high, low in zip(higher, lower, strict=True)
        )
        return first, second

    def _repeated(self, numbers: Value) -> Value:
        b = self._b
        low = b.and_(numbers, each(INTS, 0xFFFF))
        return b.bitcast(b.or_(low, b.shl(numbers, each(INTS, 16))), _HALVES)

    def _minus(self, numbers: Value) -> Value:
        """128 less numbers, as bytes, four times each."""
        b = self._b
        rest = b.and_(b.sub(each(INTS, WEIGHT_ZERO), numbers), each(INTS, 255))
        for bits in (8, 16):
            rest = b.or_(rest, b.shl(rest, each(INTS, bits)))
        return b.bitcast(rest, BYTES)
