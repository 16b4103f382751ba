"""What becomes of the totals of a panel: scaled, with the bias, activated, and written.

Where numbers `z` and `Z` of its own stand for zero in a token and in the weights of an output,

    sum((q - z) * (Q - Z)) = sum(q * Q) - Z * sum(q) - z * sum(Q - Z)

Totals are of the first sum. The others are products of a number of the token and one of the output.
"""

from collections.abc import Sequence

import torch
from llvmlite import ir

from martlet.models.compiled.writing import Writing
from martlet.models.machine_code.emit import (
    FLAG,
    FLOAT,
    FLOATS,
    HALVES,
    INT,
    LANES,
    POINTER,
    VECTOR_BYTES,
    WORD,
    WORDS,
    Builder,
    Value,
    at,
    broadcast,
    load,
    load_each,
    repeat,
    to_bf16,
)
from martlet.models.machine_code.kind import PANEL
from martlet.models.machine_code.tile import COLUMNS
from martlet.models.machine_code.worker import known_function, new_function

_NUMBER_BYTES = 4
PANEL_BYTES = PANEL * _NUMBER_BYTES
"""Of a panel's numbers of 32 bits."""


class Outputs:
    """Writes the code for outputs in each way that there is, see `Writing`.

    Args:
        module: Where its functions are written to.
        num_layers: One, or two: a gate and what it is for. What comes of two is rounded.
        has_zeros: Whether numbers of their own stand for zero.
    """

    def __init__(self, module: ir.Module, num_layers: int, *, has_zeros: bool) -> None:
        self._has_zeros = has_zeros
        self._masked_stores = {}
        for is_rounded, kind, suffix in ((True, HALVES, "v16i16"), (False, FLOATS, "v16f32")):
            parameters = [kind, POINTER, INT, ir.VectorType(FLAG, LANES)]
            name = f"llvm.masked.store.{suffix}.p0"
            store = known_function(module, name, ir.VoidType(), parameters)
            self._masked_stores[is_rounded] = store
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)
        self._function = self._write(module, num_layers)

    @property
    def ends_bytes(self) -> int:
        """Of what a panel's totals meet at the end."""
        return PANEL_BYTES * (4 if self._has_zeros else 2)

    def write(
        self,
        b: Builder,
        layers: Sequence[tuple[Value, Value]],
        corrections: tuple[Value, Value],
        out: Value,
        way: Value,
        rows: Value,
        num_outputs: Value,
        rest: Value,
    ) -> None:
        """Writes those outputs that there are; the last panel may have fewer than others.

        Args:
            layers: Of each the totals, and the ends of the panel: scales of the outputs and the
                bias, and with zeros what corrections are multiplied with.
            corrections: With zeros, of the first row: where `sum(q)` and `z` begin, both times the
                scale of the token.
            out: Of the first row.
            way: A `Writing`.
            rest: The outputs from the panel's first on.
        """
        addresses = [address for layer in layers for address in layer]
        b.call(self._function, [*addresses, *corrections, out, way, rows, num_outputs, rest])

    def _write(self, module: ir.Module, num_layers: int) -> ir.Function:
        parameters = [POINTER] * (2 * num_layers + 3) + [WORD] * 4
        function, b = new_function(module, f"outputs_of_{num_layers}", parameters)
        *addresses, sums, zeros, out, way, rows, num_outputs, rest = function.args
        corrections = (sums, zeros)
        layers = list(zip(addresses[::2], addresses[1::2], strict=True))
        is_whole = b.icmp_unsigned(">=", rest, WORD(PANEL))

        for each in Writing if num_layers == 1 else [Writing.ROUNDED]:
            is_wanted = b.icmp_unsigned("==", way, WORD(each))
            with b.if_then(is_wanted), b.if_else(is_whole) as (whole, part):
                with whole:
                    self._write_rows(b, layers, corrections, out, each, rows, num_outputs, None)
                with part:
                    # Stores with a mask take far longer.
                    count = broadcast(b, rest)
                    self._write_rows(b, layers, corrections, out, each, rows, num_outputs, count)
        b.ret_void()
        return function

    def _write_rows(
        self,
        b: Builder,
        layers: Sequence[tuple[Value, Value]],
        corrections: tuple[Value, Value],
        out: Value,
        way: Writing,
        rows: Value,
        num_outputs: Value,
        count: Value | None,
    ) -> None:
        """Writes so many outputs of each row, or all."""
        is_rounded = way == Writing.ROUNDED
        itemsize = torch.bfloat16.itemsize if is_rounded else torch.float32.itemsize

        def row(number: Value, _: list[Value]) -> list[Value]:
            target = at(b, out, b.mul(b.mul(number, num_outputs), WORD(itemsize)))
            place = b.mul(number, WORD(_NUMBER_BYTES))
            own = [load_each(b, FLOAT, each, place) for each in corrections if self._has_zeros]
            for column in COLUMNS:
                values = []
                for totals, ends in layers:
                    of_row = at(b, totals, b.mul(number, WORD(PANEL_BYTES)))
                    values.append(self._scaled(b, of_row, ends, own, column))
                if len(values) == 2:
                    value = self._gated(b, *values)
                else:
                    value = to_bf16(b, values[0]) if is_rounded else values[0]
                to = at(b, target, WORD(LANES * column * itemsize))
                if count is None and way == Writing.PAST_CACHES:
                    stored = b.store(value, to, align=VECTOR_BYTES)
                    stored.set_metadata("nontemporal", b.module.add_metadata([INT(1)]))
                elif count is None:
                    b.store(value, to, align=itemsize)
                else:
                    lanes = ir.Constant(WORDS, [LANES * column + lane for lane in range(LANES)])
                    is_there = b.icmp_unsigned("<", lanes, count)
                    b.call(self._masked_stores[is_rounded], [value, to, INT(1), is_there])
            return []

        repeat(b, rows, [], row)

    def _scaled(
        self, b: Builder, totals: Value, ends: Value, corrections: Sequence[Value], column: int
    ) -> Value:
        """Totals times the scales of the outputs, the bias, and corrections."""
        place = WORD(VECTOR_BYTES * column)
        total = load(b, FLOATS, totals, place, align=VECTOR_BYTES)
        scales = load(b, FLOATS, ends, place)
        bias = load(b, FLOATS, at(b, ends, place), WORD(PANEL_BYTES))
        total = b.call(self._fma, [total, scales, bias])
        for number, correction in enumerate(corrections, start=2):
            of_outputs = load(b, FLOATS, at(b, ends, place), WORD(number * PANEL_BYTES))
            total = b.call(self._fma, [correction, of_outputs, total])
        return total

    def _gated(self, b: Builder, gate: Value, value: Value) -> Value:
        """`silu(gate) * value` in bf16, with the bits of `compiled.elementwise.silu_times`."""
        from martlet.models.compiled.elementwise import gated
        from martlet.models.compiled.vectors import round_sums

        return b.bitcast(round_sums(b, gated(b, gate, value)), HALVES)


def output_bytes(b: Builder, way: Value) -> Value:
    """Of an output that is written in a way."""
    is_rounded = b.icmp_unsigned("==", way, WORD(Writing.ROUNDED))
    sizes = (torch.bfloat16.itemsize, torch.float32.itemsize)
    return b.select(is_rounded, *map(WORD, sizes))
