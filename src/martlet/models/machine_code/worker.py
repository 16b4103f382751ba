"""Functions that the threads of PyTorch run together, compiled for this CPU by LLVM.

PyTorch's operators for weights of few bits leave most of the memory's speed unused, and an
extension in C++ would have to be built for each platform. llvmlite brings LLVM as a library: a
function is written with its builder while the model is loaded, and is machine code a moment later.
"""

from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
from llvmlite import ir

from martlet.models.machine_code.emit import INT, POINTER, WORD, Builder, Value, load
from martlet.models.openmp import Call, run

_OPTIMIZATION = 2
_READ_TO_SECOND_LEVEL = (INT(0), INT(2), INT(1))
"""How memory is asked for: to be read, to the cache's second level, as data."""


class Worker:
    """A compiled function that works on items, which threads share.

    Each thread takes the next item until none is left, so one whose core is wanted elsewhere holds
    the others up for an item at most.
    """

    def __init__(self, code: "MachineCode", address: int) -> None:
        self._code, self._address = code, address

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


class MachineCode:
    """Modules that were compiled; what one has written, later ones can call by its name."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=_OPTIMIZATION,
            jit=True,
        )
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self._machine)

    def add(self, module: ir.Module) -> None:
        """Compiles a module."""
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        options = llvm.create_pipeline_tuning_options(_OPTIMIZATION)
        passes = llvm.create_pass_builder(self._machine, options)
        passes.getModulePassManager().run(parsed, passes)
        self._engine.add_module(parsed)
        self._engine.finalize_object()

    def worker(self, name: str) -> Worker:
        """What `write_worker` wrote."""
        return Worker(self, self._engine.get_function_address(name))


def write_worker(
    module: ir.Module,
    name: str,
    parameters: Sequence[ir.Type],
    item: Callable[..., None],
    prepare: Callable[..., Sequence[Value]] = lambda _, *values: values,
    *,
    looks_ahead: bool = False,
) -> None:
    """Writes the function of a `Worker`.

    Its parameter is the address of a task: where items that were taken are counted, the number of
    all, and the parameters.

    Args:
        parameters: The types of the parameters: pointers and words.
        item: Given a builder, the number of an item and the parameters, it writes the code that
            computes the item.
        prepare: Given a builder and the parameters, it writes what each thread does first, and
            returns the parameters that items get.
        looks_ahead: Whether a thread takes the next item before it computes one, and `item` is
            given that number too, behind its own. It is too large behind the last.
    """
    function, b = new_function(module, name, [POINTER])
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


def new_function(
    module: ir.Module, name: str, parameters: Sequence[ir.Type]
) -> tuple[ir.Function, Builder]:
    """A function without a result, and a builder at its beginning."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), parameters), name)
    function.attributes.add("noinline")  # Copies would take longer to compile, and no less to run.
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
