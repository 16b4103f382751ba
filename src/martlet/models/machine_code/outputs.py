"""What becomes of the totals of a panel: scaled, with the bias, activated, and written."""

from collections.abc import Sequence

import torch
from llvmlite import ir

from martlet.models.machine_code.emit import (
    FLAG,
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
    from_bf16,
    load,
    repeat,
    to_bf16,
)
from martlet.models.machine_code.kind import PANEL
from martlet.models.machine_code.tile import COLUMNS
from martlet.models.machine_code.worker import known_function, new_function

PANEL_BYTES = PANEL * 4
"""Of a panel's numbers of 32 bits."""


class Outputs:
    """Writes the code for outputs of a type.

    Args:
        module: Where its functions are written to.
        dtype: Of the outputs: bf16 or fp32.
        num_layers: One, or two: a gate and what it is for.
    """

    def __init__(self, module: ir.Module, dtype: torch.dtype, num_layers: int) -> None:
        self._dtype = dtype
        is_bf16 = dtype == torch.bfloat16
        stored, suffix = (HALVES, "v16i16") if is_bf16 else (FLOATS, "v16f32")
        parameters = [stored, POINTER, INT, ir.VectorType(FLAG, LANES)]
        name = f"llvm.masked.store.{suffix}.p0"
        self._store = known_function(module, name, ir.VoidType(), parameters)
        self._fma = known_function(module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)
        self._function = self._write(module, num_layers)

    def write(
        self,
        b: Builder,
        layers: Sequence[tuple[Value, Value]],
        out: Value,
        rows: Value,
        num_outputs: Value,
        rest: Value,
    ) -> None:
        """Writes those outputs that there are; the last panel may have fewer than others.

        Args:
            layers: Of each the totals, and the scales and the bias of the panel's outputs.
            out: Of the first row.
            rest: The outputs from the panel's first on.
        """
        addresses = [address for layer in layers for address in layer]
        b.call(self._function, [*addresses, out, rows, num_outputs, rest])

    def _write(self, module: ir.Module, num_layers: int) -> ir.Function:
        parameters = [POINTER] * (2 * num_layers + 1) + [WORD] * 3
        function, b = new_function(module, f"outputs_of_{num_layers}", parameters)
        *addresses, out, rows, num_outputs, rest = function.args
        layers = list(zip(addresses[::2], addresses[1::2], strict=True))
        is_whole = b.icmp_unsigned(">=", rest, WORD(PANEL))
        with b.if_else(is_whole) as (whole, part):
            with whole:
                self._write_rows(b, layers, out, rows, num_outputs, None)
            with part:
                # Stores with a mask take far longer.
                self._write_rows(b, layers, out, rows, num_outputs, broadcast(b, rest))
        b.ret_void()
        return function

    def _write_rows(
        self,
        b: Builder,
        layers: Sequence[tuple[Value, Value]],
        out: Value,
        rows: Value,
        num_outputs: Value,
        count: Value | None,
    ) -> None:
        """Writes so many outputs of each row, or all."""
        itemsize = self._dtype.itemsize

        def row(number: Value, _: list[Value]) -> list[Value]:
            target = at(b, out, b.mul(b.mul(number, num_outputs), WORD(itemsize)))
            for column in COLUMNS:
                values = [
                    self._scaled(b, at(b, totals, b.mul(number, WORD(PANEL_BYTES))), ends, column)
                    for totals, ends in layers
                ]
                value = values[0] if len(values) == 1 else self._gated(b, *values)
                to = at(b, target, WORD(LANES * column * itemsize))
                if count is None:
                    b.store(value, to, align=itemsize)
                else:
                    lanes = ir.Constant(WORDS, [LANES * column + lane for lane in range(LANES)])
                    is_there = b.icmp_unsigned("<", lanes, count)
                    b.call(self._store, [value, to, INT(1), is_there])
            return []

        repeat(b, rows, [], row)

    def _scaled(self, b: Builder, totals: Value, ends: Value, column: int) -> Value:
        """Totals times the scales of the outputs, and the bias, in the type of the outputs."""
        place = WORD(VECTOR_BYTES * column)
        total = load(b, FLOATS, totals, place, align=VECTOR_BYTES)
        scales = load(b, FLOATS, ends, place)
        bias = load(b, FLOATS, at(b, ends, place), WORD(PANEL_BYTES))
        total = b.call(self._fma, [total, scales, bias])
        return to_bf16(b, total) if self._dtype == torch.bfloat16 else total

    def _gated(self, b: Builder, gate: Value, value: Value) -> Value:
        """`silu(gate) * value` in bf16, with the bits of `compiled.elementwise.silu_times`."""
        from martlet.models.compiled.elementwise import gated
        from martlet.models.compiled.vectors import round_sums

        product = gated(b, from_bf16(b, gate), from_bf16(b, value))
        return b.bitcast(round_sums(b, product), HALVES)
