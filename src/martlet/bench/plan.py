"""From what a user asks for to a bench that can run; all that can be refused is refused here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from martlet.bench.contestant import Contestant, find_contestants
from martlet.bench.peers.protocol import Work
from martlet.bench.puzzles import puzzle_work
from martlet.bench.run import Bench
from martlet.bench.trace import read_trace
from martlet.bench.works import MAKERS, PUZZLES, STANDARD, Sizes, make_works, mixed_and_equal
from martlet.errors import NotFoundError, ParameterError
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.linear.packed import can_pack
from martlet.models.resolve import DEMO

_NUM_TRACE_REQUESTS = 64
_QUICK_TRACE_SCALE = 0.25
_ANY_CONTEXT = 8_192
"""Where a config tells of no limit."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is to be measured, as a user says it."""

    works: Sequence[str] = ()
    """Names; none takes alone, batch and vote, unless there is a trace."""
    trace: Path | None = None
    num_requests: int | None = None
    """Prompts of a work; None takes each work's own number."""
    is_quick: bool = False
    num_rounds: int = 1
    own_weights: Sequence[str] = ("stored",)
    """How Martlet holds the weights; each is a contestant."""
    against: Sequence[str] = ()
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    environments: Path
    """One for each other engine, by its name."""

    def __post_init__(self) -> None:
        for name, value in (("--requests", self.num_requests), ("--rounds", self.num_rounds)):
            if value is not None and value < 1:
                raise ParameterError(f"{name} must be at least 1, not {value}")


def find_all_contestants(options: BenchOptions) -> list[Contestant]:
    """Who takes part; refuses what can be refused without a model.

    Raises:
        ParameterError: If a work or an engine is unknown, or weights cannot be held so.
        NotFoundError: If an engine has no environment, or there is no such trace.
    """
    if options.trace is not None and not options.trace.is_file():
        raise NotFoundError(f"--trace {options.trace}: there is no such file")
    known = (*MAKERS, PUZZLES)
    for name in options.works:
        if name not in known:
            raise ParameterError(f"--work takes {', '.join(known)}, and not {name!r}")
    contestants = find_contestants(
        options.own_weights, options.against, environments=options.environments
    )
    if not can_pack() and any(each.weights != "stored" for each in contestants):
        raise ParameterError("weights are rounded on CPUs with bf16 instructions alone")
    return contestants


def plan_bench(model: str, path: Path, options: BenchOptions) -> Bench:
    """Opens a model and makes the works.

    Args:
        model: As the user named it.
        path: Its folder.
        options: What is to be measured.

    Raises:
        ModelError: If the folder holds no model.
        ParameterError: If an option contradicts the model.
        NotFoundError, RowError: If the trace cannot be read.
    """
    folder = open_folder(path)
    contestants = find_all_contestants(options)
    is_rounded = any(each.weights != "stored" for each in contestants)
    if is_rounded and folder.quantization_method is not None:
        raise ParameterError(f"{model} is quantised already: every engine takes it as it is")
    return Bench(
        folder=folder,
        works=_works(model, folder, options),
        contestants=contestants,
        num_rounds=options.num_rounds,
        dtype=_dtype(options),
    )


def _works(model: str, folder: ModelFolder, options: BenchOptions) -> list[Work]:
    sizes = Sizes(
        vocab_size=folder.num_embeddings or 1,
        max_context_tokens=folder.shape.max_context_tokens or _ANY_CONTEXT,
        num_requests=options.num_requests,
        is_quick=options.is_quick,
    )
    names = options.works or (() if options.trace else STANDARD)
    works = []
    for name in names:
        if name != PUZZLES:
            works += make_works(name, sizes)
        elif model == DEMO:
            works.append(puzzle_work(num_puzzles=options.num_requests or sizes.scaled(64)))
        else:
            raise ParameterError(f"--work {PUZZLES} is for the embedded model: martlet bench demo")
    if options.trace is not None:
        works += _traced(options.trace, sizes)
    return works


def _traced(path: Path, sizes: Sizes) -> list[Work]:
    trace = read_trace(
        path,
        num_requests=sizes.num_requests or _NUM_TRACE_REQUESTS,
        longest=sizes.max_context_tokens,
        scale=_QUICK_TRACE_SCALE if sizes.is_quick else 1.0,
    )
    return mixed_and_equal(trace.lengths, sizes)


def _dtype(options: BenchOptions) -> torch.dtype:
    if options.dtype == "auto":
        return torch.bfloat16 if can_pack() else torch.float32
    return torch.bfloat16 if options.dtype == "bf16" else torch.float32
