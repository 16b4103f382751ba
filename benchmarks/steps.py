"""What a decoding step is made of, on all cores.

    python benchmarks/steps.py                  # bf16
    python benchmarks/steps.py --weights int4   # or int8

The model is that of `martlet bench`: the shape of Qwen2 0.5B, random weights. For some numbers of
requests of 320 tokens, milliseconds (medians): a whole step; its program, and of the calls in it
the products, attention and what lies between, each kind run again by itself; the draw of the most
likely tokens, which the program has found; and what is left. "through modules" is the same step
with each layer called by Python, as a model is computed whose layers are not written down. "plain
read" is what a sum takes for as many bytes as a step must read, and "step beside" the step, one
after the other in turns: neither the neighbours nor the moment favour one of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from common import prompts
from martlet.bench.cost import ModelCost
from martlet.bench.limits import memory_block
from martlet.bench.machine import machine
from martlet.bench.random_model import make_model
from martlet.engine import engine as engine_module
from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.engine.runner import PlainRunner
from martlet.engine.step_program import StepProgram
from martlet.models.compiled.attention import attend
from martlet.models.compiled.elementwise import silu_times
from martlet.models.compiled.largest import find_largest
from martlet.models.compiled.norms import add_rms_norm, rms_norm
from martlet.models.compiled.program import Program
from martlet.models.compiled.rotary import rotate_into_pool
from martlet.models.folder import open_folder
from martlet.models.linear.compact import BYTES_A_VALUE, multiplies_compact
from martlet.models.load import LoadedModel, load_model
from martlet.models.openmp import Call

NUM_TOKENS, NUM_STEPS, NUM_RUNS = 320, 20, 9
COLUMNS = (
    "requests",
    "step",
    "through modules",
    "program",
    "products",
    "attention",
    "between",
    "draw",
    "the rest",
    "step beside",
    "plain read",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", choices=("stored", "int8", "int4"), default="stored")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 64])
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        files = open_folder(make_model(Path(folder) / "model"))
        dtype, weights = torch.bfloat16, arguments.weights
        model = load_model(files, dtype=dtype, device=torch.device("cpu"), weights=weights)
        size = BYTES_A_VALUE if weights == "stored" and multiplies_compact() else None
        cost = ModelCost.of(files, dtype, weights, stored_size=size)
        assert cost is not None
        print(f"{machine()}, {torch.get_num_threads()} threads, weights {arguments.weights}")
        print("".join(f"{name:>16}" for name in COLUMNS))
        for num_requests in arguments.requests:
            parts = measure(model, cost, num_requests)
            print(f"{num_requests:16}" + "".join(f"{parts[name]:16.2f}" for name in COLUMNS[1:]))


def measure(model: LoadedModel, cost: ModelCost, num_requests: int) -> dict[str, float]:
    """Milliseconds by the names of the columns."""
    engine = decoding_engine(model, num_requests)
    runner = engine._runner
    assert isinstance(runner, PlainRunner)
    assert runner._compiled is not None
    program = runner._compiled._programs[num_requests, None, ()]
    assert program is not None
    inside = timed_inside(engine, program)
    inside |= beside_a_read(engine, cost)
    with patch.object(runner, "_compiled", None):
        modules_ms = median_ms(engine.step, NUM_STEPS)
    # Last, because it leaves nonsense in the pool.
    kinds = timed_by_kind(engine, program)
    return {**inside, **kinds, "through modules": modules_ms}


def beside_a_read(engine: Engine, cost: ModelCost) -> dict[str, float]:
    """Steps, and sums of as many bytes as they must read."""
    block = memory_block()
    times: dict[str, list[float]] = {"step beside": [], "plain read": []}
    for _ in range(NUM_STEPS):
        engine.step()
        assert engine.last_step is not None
        num_bytes = cost.load(num_steps=1, num_read=engine.last_step.num_attended).num_bytes
        times["step beside"].append(engine.last_step.seconds * 1e3)
        times["plain read"].append(median_ms(block.sum, 1) * num_bytes / block.nbytes)
    return {name: statistics.median(each) for name, each in times.items()}


def timed_by_kind(engine: Engine, program: StepProgram) -> dict[str, float]:
    """The calls of a step, all and each kind by itself, while what they point to is there."""
    parts: dict[str, float] = {}
    calls = program._program
    run = calls.run

    def timed() -> None:
        run()
        parts.update(by_kind(calls))

    with patch.object(calls, "run", timed):
        engine.step()
    return parts


def by_kind(program: Program) -> dict[str, float]:
    """What is computed twice is thrown away."""
    calls = [
        Call(function, tuple(arguments[1:]), bool(waits))
        for (function, _, waits), arguments in zip(
            program._calls.tolist(), program.arguments.tolist(), strict=True
        )
    ]
    attention = {attend(is_rounded=False).address}
    between = {
        function.address
        for function in (
            rms_norm(is_wide=True),
            add_rms_norm(),
            silu_times(),
            rotate_into_pool(is_rounded=False),
            find_largest(),
        )
    }
    kinds = {
        "products": [call for call in calls if call.function not in attention | between],
        "attention": [call for call in calls if call.function in attention],
        "between": [call for call in calls if call.function in between],
    }
    return {name: median_ms(Program(some).run, NUM_RUNS) for name, some in kinds.items()}


def decoding_engine(model: LoadedModel, num_requests: int) -> Engine:
    """An engine whose requests have read their prompts."""
    longest = NUM_TOKENS + 5 * NUM_STEPS
    config = EngineConfig(
        num_blocks=num_requests * (-(-longest // 16) + 2),
        max_num_requests=num_requests,
        max_context_tokens=longest,
        speculation=False,
    )
    engine = Engine(model, config)
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=5 * NUM_STEPS)
    for index, prompt in enumerate(prompts(num_requests, NUM_TOKENS - NUM_STEPS // 2)):
        engine.add(str(index), prompt, params, seed=index)
    while engine.last_step is None or engine.last_step.num_tokens != num_requests:
        engine.step()
    return engine


def timed_inside(engine: Engine, program: StepProgram) -> dict[str, float]:
    """Steps, and what they are made of, measured where a step calls it."""
    times: dict[str, list[float]] = {"program": [], "draw": [], "step": []}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            start = time.perf_counter()
            out = call(*arguments)
            times[name].append(time.perf_counter() - start)
            return out

        return wrapped

    with (
        patch.object(program._program, "run", timed("program", program._program.run)),
        patch.object(engine_module, "draw_step", timed("draw", engine_module.draw_step)),
    ):
        step = timed("step", engine.step)
        for _ in range(NUM_STEPS):
            step()
    own = zip(*(times[name] for name in ("step", "program", "draw")), strict=True)
    rest = [step - sum(parts) for step, *parts in own]
    return {
        name: statistics.median(each) * 1e3 for name, each in {**times, "the rest": rest}.items()
    }


def median_ms(call: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
