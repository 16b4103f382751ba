"""Many compiled functions, called one after the other without a word of Python in between.

A step of few rows is hundreds of calls of some microseconds each. Called from Python, they take as
long to start as to run, and between two of them the memory has nothing to do.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from martlet.models import openmp
from martlet.models.compiled.threads import version
from martlet.models.compiled.vectors import Builder, Value, compiled, numbers_at
from martlet.models.openmp import Call


class Program:
    """Calls that were written down once, to be made many times.

    Args:
        calls: In their order. What their arguments point to must outlive the program.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        width = 1 + max(len(call.arguments) for call in calls)
        self.arguments = np.zeros((len(calls), width), dtype=np.int64)
        """`[calls, width]`: the arguments of each, behind the address of its counter. They may be
        changed between two runs."""
        self._taken = np.zeros(len(calls), dtype=np.int64)
        first = self._taken.ctypes.data
        self._calls = np.empty((len(calls), 3), dtype=np.int64)
        for index, call in enumerate(calls):
            row = self.arguments[index]
            row[: 1 + len(call.arguments)] = (first + 8 * index, *call.arguments)
            self._calls[index] = call.function, row.ctypes.data, call.waits
        meet = openmp.barrier_address()
        self._numbers = np.array([0, self._calls.ctypes.data, len(calls), meet], dtype=np.int64)
        self._where = make_calls().address, self._numbers.ctypes.data

    def run(self) -> None:
        """Makes all calls, on all of PyTorch's threads."""
        self._taken.fill(0)
        openmp.run_at(*self._where)


@cache
def make_calls() -> Any:
    """The function that makes calls; its argument is the address of four whole numbers.

    These are: one that nobody looks at; the address of the calls, for each the address
    of its function, that of its arguments, and whether it waits for the call before it; how many
    there are; and the address of the function at which threads wait for each other.
    """
    sources = version()

    @compiled
    def work(arguments: Any) -> None:
        _ = sources
        calls = numbers_at(arguments[1])
        for index in range(arguments[2]):
            if calls[3 * index + 2]:
                _wait(arguments[3])
            _call(calls[3 * index], calls[3 * index + 1])

    return work


@intrinsic  # type: ignore[untyped-decorator]
def _call(_: Any, function: Any, arguments: Any) -> Any:
    """Calls the function at an address."""

    def generate(context: Any, builder: Builder, _: Any, values: Any) -> Value:
        function, arguments = values
        kind = ir.FunctionType(ir.VoidType(), [arguments.type])
        builder.call(builder.inttoptr(function, kind.as_pointer()), [arguments])
        return context.get_dummy_value()

    return types.void(function, arguments), generate


@intrinsic  # type: ignore[untyped-decorator]
def _wait(_: Any, function: Any) -> Any:
    """Calls the function without arguments at an address."""

    def generate(context: Any, builder: Builder, _: Any, values: Any) -> Value:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(function), generate
