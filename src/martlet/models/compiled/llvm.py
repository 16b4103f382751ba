"""Functions built as LLVM code while a model is loaded, and compiled for the CPU that runs them.

PyTorch's operators for few rows of eight and four bits leave much of the memory's speed unused, and
extensions in C++ would need a wheel for each platform. llvmlite brings LLVM: a function is written
with its builder, vectors and all, and is machine code a moment later.

Threads are those of PyTorch, whose OpenMP library is asked for them.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

Value = Any
"""The result of an instruction; llvmlite has no types of its own."""
Builder = Any
_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")
_OPENMP_FUNCTION = "GOMP_parallel"
"""Gives each thread of a team the same function to run. The OpenMP of LLVM and of Intel have it too."""


@cache
def can_compile() -> bool:
    """Whether llvmlite is there, with a CPU and an OpenMP that the functions are written for."""
    if find_spec("llvmlite") is None or _openmp() is None:
        return False
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return all(features.get(name, False) for name in _FEATURES)


@cache
def _openmp() -> Any:
    """The function that gives each thread of a team the same function to run, with an argument."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not library.exists():
        return None
    return getattr(ctypes.CDLL(str(library)), _OPENMP_FUNCTION, None)


def run(worker: int, num_items: int, *values: int) -> None:
    """Runs a worker in the threads of PyTorch.

    Args:
        worker: Its address.
        values: Of its parameters.
    """
    task = (ctypes.c_int64 * (2 + len(values)))(0, num_items, *values)
    num_threads = min(torch.get_num_threads(), num_items)
    _openmp()(ctypes.c_void_p(worker), task, ctypes.c_uint(num_threads), ctypes.c_uint(0))


class Module:
    """Functions that are compiled together."""

    def __init__(self, name: str) -> None:
        from llvmlite import ir

        self._ir = ir.Module(name)
        self._engine: Any = None

    def function(self, name: str, parameters: Sequence[Any]) -> tuple[Any, Builder]:
        """A new function without a result, and a builder that stands at its beginning."""
        from llvmlite import ir

        function = ir.Function(self._ir, ir.FunctionType(ir.VoidType(), parameters), name)
        return function, ir.IRBuilder(function.append_basic_block())

    def external(self, name: str, result: Any, parameters: Sequence[Any]) -> Any:
        """A function that is defined elsewhere, such as an instruction of the CPU."""
        from llvmlite import ir

        known = self._ir.globals.get(name)
        return known or ir.Function(self._ir, ir.FunctionType(result, parameters), name)

    def worker(self, name: str, parameters: Sequence[Any], item: Callable[..., None]) -> None:
        """A function that threads run together on a task, whose items they share.

        Each takes the next item until none is left, so a thread whose core is wanted elsewhere holds
        the others up for one item at most. A task is an array of words of 64 bits: the number of
        items taken, the number of items, the parameters.

        Args:
            parameters: The types of the parameters, pointers and words.
            item: Called with a builder, the number of an item and the parameters, it writes the
                code that computes the item.
        """
        from llvmlite import ir

        word = ir.IntType(64)
        function, builder = self.function(name, [ir.PointerType()])
        (task,) = function.args
        num_items, *values = (
            builder.load(at(builder, task, word(8 * place)), typ=kind)
            for place, kind in enumerate([word, *parameters], start=1)
        )
        take, compute, end = (
            function.append_basic_block(block) for block in ("take", "compute", "end")
        )
        builder.branch(take)
        builder.position_at_end(take)
        number = builder.atomic_rmw("add", task, word(1), "monotonic")
        builder.cbranch(builder.icmp_unsigned("<", number, num_items), compute, end)
        builder.position_at_end(compute)
        item(builder, number, *values)
        builder.branch(take)
        builder.position_at_end(end)
        builder.ret_void()

    def compile(self) -> None:
        """Makes machine code of it, for this CPU."""
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(str(self._ir))
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=2,
            jit=True,
        )
        module.verify()
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
        passes.getModulePassManager().run(module, passes)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.assembly = machine.emit_assembly(module)

    def address(self, name: str) -> int:
        """Of a compiled function."""
        address: int = self._engine.get_function_address(name)
        return address


def repeat(
    builder: Builder,
    count: Value,
    carried: Sequence[Value],
    step: Callable[[Value, list[Value]], Sequence[Value]],
) -> list[Value]:
    """A loop that runs at least once.

    Args:
        carried: What goes from one round to the next, before the first.
        step: Writes a round: given its number and what was carried, what is carried on.

    Returns:
        What was carried, after the last.
    """
    before, body = builder.block, builder.function.append_basic_block("round")
    builder.branch(body)
    builder.position_at_end(body)
    number = builder.phi(count.type)
    number.add_incoming(count.type(0), before)
    values = []
    for each in carried:
        value = builder.phi(each.type)
        value.add_incoming(each, before)
        values.append(value)
    results = step(number, values)
    following = builder.add(number, count.type(1))
    number.add_incoming(following, builder.block)
    for value, result in zip(values, results, strict=True):
        value.add_incoming(result, builder.block)
    after = builder.function.append_basic_block("after")
    builder.cbranch(builder.icmp_unsigned("<", following, count), body, after)
    builder.position_at_end(after)
    return list(results)


def at(builder: Builder, pointer: Value, offset: Value) -> Value:
    """The address so many bytes behind another."""
    from llvmlite import ir

    return builder.gep(pointer, [offset], source_etype=ir.IntType(8))
