"""Functions that the threads of PyTorch run together, compiled for this CPU by LLVM.

PyTorch's operators for weights of few bits leave most of the memory's speed unused, and an
extension in C++ would have to be built for each platform. llvmlite brings LLVM as a library: a
function is written with its builder while the model is loaded, and is machine code a moment later.
"""

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from martlet.models.machine_code.emit import INT, POINTER, WORD, Builder, Value, load
from martlet.models.openmp import Call, run

_OPTIMIZATION = 2
_WORKER = "worker"
_READ_TO_SECOND_LEVEL = (INT(0), INT(2), INT(1))
"""How memory is asked for: to be read, to the cache's second level, as data."""


class Worker:
    """A compiled function that works on items, which threads share.

    Each thread takes the next item until none is left, so one whose core is wanted elsewhere holds
    the others up for an item at most.

    Args:
        module: The functions that the items' code calls. It is compiled with them.
        parameters: The types of the parameters: pointers and words.
        item: Given a builder, the number of an item and the parameters, it writes the code that
            computes the item.
        prepare: Given a builder and the parameters, it writes what each thread does first, and
            returns the parameters that items get.
        looks_ahead: Whether a thread takes the next item before it computes one, and `item` is
            given that number too, behind its own. It is too large behind the last.
    """

    def __init__(
        self,
        module: ir.Module,
        parameters: Sequence[ir.Type],
        item: Callable[..., None],
        prepare: Callable[..., Sequence[Value]] = lambda _, *values: values,
        *,
        looks_ahead: bool = False,
    ) -> None:
        _write(module, parameters, item, prepare, looks_ahead=looks_ahead)
        self._engine = _compile(module)  # It owns the machine code.
        self._address: int = self._engine.get_function_address(_WORKER)

    def __call__(self, num_items: int, *values: int, alone: bool) -> None:
        """Computes all items.

        Args:
            values: Of the parameters.
            alone: Whether this thread does so by itself. Threads take a few microseconds to wake.
        """
        run(self.call(num_items, *values), alone=alone)

    def call(self, num_items: int, *values: int) -> Call:
        """What computes all items, where other calls come before and after it."""
        return Call(self._address, (num_items, *values))


def _write(
    module: ir.Module,
    parameters: Sequence[ir.Type],
    item: Callable[..., None],
    prepare: Callable[..., Sequence[Value]],
    *,
    looks_ahead: bool,
) -> None:
    """A function of a task: where items that were taken are counted, the number of all, and the
    parameters."""
    function, b = new_function(module, _WORKER, [POINTER])
    (task,) = function.args
    taken, num_items, *given = [
        load(b, kind, task, WORD(8 * place), align=8)
        for place, kind in enumerate([POINTER, WORD, *parameters])
    ]

    def take() -> Value:
        return b.atomic_rmw("add", taken, WORD(1), "monotonic")

    values = prepare(b, *given)
    check, compute, end = (b.append_basic_block(name) for name in ("check", "compute", "end"))
    first, before = take(), b.block
    b.branch(check)
    b.position_at_end(check)
    number = b.phi(WORD)
    b.cbranch(b.icmp_unsigned("<", number, num_items), compute, end)
    b.position_at_end(compute)
    if looks_ahead:
        following = take()
        item(b, number, following, *values)
    else:
        item(b, number, *values)
        following = take()
    number.add_incoming(first, before)
    number.add_incoming(following, b.block)
    b.branch(check)
    b.position_at_end(end)
    b.ret_void()


def _compile(module: ir.Module) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=_OPTIMIZATION,
        jit=True,
    )
    options = llvm.create_pipeline_tuning_options(_OPTIMIZATION)
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


def new_function(
    module: ir.Module, name: str, parameters: Sequence[ir.Type]
) -> tuple[ir.Function, Builder]:
    """A function without a result, and a builder at its beginning."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), parameters), name)
    return function, ir.IRBuilder(function.append_basic_block("begin"))


def known_function(
    module: ir.Module, name: str, result: ir.Type, parameters: Sequence[ir.Type]
) -> ir.Function:
    """A function that LLVM brings, most often an instruction of the CPU."""
    known = module.globals.get(name)
    return known or ir.Function(module, ir.FunctionType(result, parameters), name)


def ask_for(module: ir.Module, b: Builder, address: Value) -> None:
    """Writes what asks memory for a line that will be read soon."""
    name, parameters = "llvm.prefetch.p0", [POINTER, INT, INT, INT]
    prefetch = known_function(module, name, ir.VoidType(), parameters)
    b.call(prefetch, [address, *_READ_TO_SECOND_LEVEL])
