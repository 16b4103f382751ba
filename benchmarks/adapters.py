"""Un-merged adapters on a CPU: what they cost beside the base, and whom loading one stops.

    python benchmarks/adapters.py                           # everything, some minutes on two cores
    python benchmarks/adapters.py --requests 8 --tokens 32  # small, to see that it works
    python benchmarks/adapters.py --against openvino        # with another engine beside it

The model is that of `martlet bench`: the shape of Qwen2 0.5B, random weights, bf16. The adapters
have rank 16 on all linear layers. Each measurement runs in a process of its own; they take turns.

    base        64 prompts of 128, 128 new tokens each, greedy
    one         the same, all by one adapter
    adapters    the same, neighbours by different adapters, 8 in all
    loading     the same, while further adapters are read by another thread and put in place
    openvino    the base alone, by another engine

The table goes to `benchmarks/results/adapters.md`.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from common import RESULTS, prompts
from martlet.bench.contestant import Contestant, find_contestants
from martlet.bench.machine import machine
from martlet.bench.peers.protocol import Ask, Work
from martlet.bench.random_model import make_model
from martlet.bench.run import Bench
from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.lora.revision import AdapterRevision
from martlet.models.folder import open_folder
from martlet.models.load import load_model

NUM_ADAPTERS = 8
NUM_LOADED = 4
"""Adapters that are loaded one after the other under load."""
NUM_STEPS_BETWEEN = 3
"""Steps without a load between two loads."""
RANK = 16
NUM_PROMPT_TOKENS = 128
CONTENDERS = ("base", "one", "adapters", "loading")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one process measured."""

    tokens_per_second: float
    """Drawn tokens over the whole time, prompts included."""
    step_s: float
    """The median time between the ends of two steps that only decode."""
    longest_s: float
    """The longest such time while adapters were loaded; 0 where none was."""
    install_s: float
    """The longest time that the engine's thread spent on putting one in place."""
    prepare_s: float
    """The longest time that the other thread took to read one."""


def main() -> None:
    arguments = _parse_arguments()
    if arguments.contender:
        figure = measure(arguments, Path(arguments.folder))
        print(json.dumps(asdict(figure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / "model")
        make_adapters(folder, NUM_ADAPTERS + NUM_LOADED)
        peers = find_contestants([], arguments.against, environments=arguments.environments)
        peer_of = {peer.name: peer for peer in peers}
        names = (*CONTENDERS, *peer_of)
        figures: dict[str, list[Figure]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            for name in names:
                if name in peer_of:
                    figure = run_peer(peer_of[name], folder, arguments)
                else:
                    figure = run_alone(name, folder, arguments)
                figures[name].append(figure)
                print(
                    f"round {number + 1}  {name:9} {figure.tokens_per_second:7.1f} tokens/s, "
                    f"a step {figure.step_s * 1e3:.1f} ms",
                    file=sys.stderr,
                )
    table = render(figures, arguments)
    print(table)
    if arguments.requests == 64 and arguments.tokens == 128:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "adapters.md").write_text(table, encoding="utf-8")
        raw = {name: [asdict(figure) for figure in several] for name, several in figures.items()}
        (RESULTS / "adapters.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


def make_adapters(folder: Path, count: int) -> None:
    """Saves random adapters on all linear layers, as PEFT would."""
    model = load_model(
        open_folder(folder / "model"), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    shapes = {
        name: (module.in_features, module.out_features)
        for name, module in model.module.named_modules()
        if name.rpartition(".")[2] in names
    }
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": sorted(names)}
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        tensors = {}
        for name, (num_in, num_out) in shapes.items():
            for part, shape in (("lora_A", (RANK, num_in)), ("lora_B", (num_out, RANK))):
                matrix = torch.randn(shape, generator=generator) * 0.02
                tensors[f"base_model.model.{name}.{part}.weight"] = matrix
        path = folder / f"adapter-{number}"
        path.mkdir()
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def run_alone(contender: str, folder: Path, arguments: argparse.Namespace) -> Figure:
    """Measures one contender in a process of its own."""
    command = [sys.executable, __file__, "--contender", contender, "--folder", str(folder)]
    command += ["--requests", str(arguments.requests), "--tokens", str(arguments.tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Figure(**json.loads(done.stdout.splitlines()[-1]))


def run_peer(peer: Contestant, folder: Path, arguments: argparse.Namespace) -> Figure:
    """Measures what another engine makes of the base, as `martlet bench` does."""
    asks = [Ask(ids, arguments.tokens) for ids in prompts(arguments.requests, NUM_PROMPT_TOKENS)]
    bench = Bench(
        folder=open_folder(folder / "model"),
        works=[Work("base", "the base", asks)],
        contestants=[peer],
        num_rounds=1,
        dtype=torch.bfloat16,
    )
    (measured,) = bench.measure(folder, lambda _: None)
    return Figure(
        tokens_per_second=measured.figure.tokens_per_second,
        step_s=(measured.figure.between_tokens_p50_ms or 0.0) / 1e3,
        longest_s=0.0,
        install_s=0.0,
        prepare_s=0.0,
    )


def measure(arguments: argparse.Namespace, folder: Path) -> Figure:
    """Runs the requests to their end, and times every step."""
    contender, num_requests, num_tokens = (
        arguments.contender,
        arguments.requests,
        arguments.tokens,
    )
    engine = make_engine(folder, num_requests, num_tokens)
    num_adapters = {"base": 0, "one": 1}.get(contender, NUM_ADAPTERS)
    for number in range(num_adapters):
        engine.adapters.install(engine.adapters.prepare(str(number), folder / f"adapter-{number}"))
    add_requests(engine, min(num_requests, 8), 4, num_adapters, length=16)
    while engine.num_unfinished:
        engine.step()
    loader = Loader(engine, folder) if contender == "loading" else None
    start = time.perf_counter()
    add_requests(engine, num_requests, num_tokens, num_adapters)
    ends: list[float] = []
    while engine.num_unfinished:
        engine.step()
        if not is_decoding(engine, num_requests):
            continue
        # Here its tokens are handed out; what comes now delays the next ones.
        ends.append(time.perf_counter())
        if loader is not None:
            loader.work()
    if len(ends) < 2:
        raise SystemExit("no two steps only decoded: give more --tokens")
    gaps = [later - earlier for earlier, later in pairwise(ends)]
    return Figure(
        tokens_per_second=num_requests * num_tokens / (time.perf_counter() - start),
        step_s=statistics.median(gaps),
        longest_s=max(gaps) if loader is not None else 0.0,
        install_s=max(loader.install_s) if loader is not None else 0.0,
        prepare_s=max(loader.prepare_s) if loader is not None else 0.0,
    )


class Loader:
    """Reads adapters on a thread of its own and puts them in place between two steps."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.install_s: list[float] = []
        self.prepare_s: list[float] = []
        self._engine = engine
        self._num_steps = 0
        self._paths = [folder / f"adapter-{NUM_ADAPTERS + n}" for n in range(NUM_LOADED)]
        self._thread: threading.Thread | None = None
        self._prepared: list[AdapterRevision] = []

    def work(self) -> None:
        """Called between two steps: installs what is read, begins to read the next."""
        if self._prepared:
            start = time.perf_counter()
            self._engine.adapters.install(self._prepared.pop())
            self.install_s.append(time.perf_counter() - start)
            self._num_steps = 0
        self._num_steps += 1
        is_reading = self._thread is not None and (self._thread.is_alive() or self._prepared)
        if self._paths and not is_reading and self._num_steps > NUM_STEPS_BETWEEN:
            path = self._paths.pop()
            self._thread = threading.Thread(target=self._read, args=(path,))
            self._thread.start()

    def _read(self, path: Path) -> None:
        start = time.perf_counter()
        prepared = self._engine.adapters.prepare(path.name, path)
        self.prepare_s.append(time.perf_counter() - start)
        self._prepared.append(prepared)


def make_engine(folder: Path, num_requests: int, num_tokens: int) -> Engine:
    model = load_model(
        open_folder(folder / "model"), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    longest = NUM_PROMPT_TOKENS + num_tokens
    config = EngineConfig(
        # Room for all at once, with what admission keeps free for each.
        num_blocks=num_requests * (-(-longest // 16) + 2),
        max_num_requests=num_requests,
        max_context_tokens=longest,
    )
    return Engine(model, config)


def add_requests(
    engine: Engine, count: int, num_tokens: int, num_adapters: int, length: int = NUM_PROMPT_TOKENS
) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
    for index, prompt in enumerate(prompts(count, length)):
        adapter = str(index % num_adapters) if num_adapters else None
        engine.add(f"{length}-{index}", prompt, params, seed=index, adapter=adapter)


def is_decoding(engine: Engine, num_requests: int) -> bool:
    """Whether the last step drew a token for every request and did nothing else."""
    step = engine.last_step
    return step is not None and step.num_tokens == step.num_drawn == num_requests


def render(figures: dict[str, list[Figure]], arguments: argparse.Namespace) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# Un-merged adapters on a CPU",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}. Made by "
        "`python benchmarks/adapters.py`, whose first lines say what is measured; "
        f"{arguments.requests} requests, {arguments.tokens} tokens each.",
        "",
        "| work | tokens/s, median | least | most | a decoding step, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, several in figures.items():
        speeds = [figure.tokens_per_second for figure in several]
        step_ms = statistics.median(figure.step_s for figure in several) * 1e3
        lines.append(
            f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f} | "
            f"{max(speeds):.1f} | {step_ms:.1f} |"
        )
    lines += ["", "| | measured | aim |", "|---|---:|---:|"]
    lines += [f"| {name} | {value} | {wanted} |" for name, value, wanted in _findings(figures)]
    return "\n".join(lines) + "\n"


def _findings(figures: dict[str, list[Figure]]) -> list[tuple[str, str, str]]:
    speed = {
        name: statistics.median(figure.tokens_per_second for figure in several)
        for name, several in figures.items()
    }
    loading = figures["loading"]
    stall_ms = max(figure.longest_s - figure.step_s for figure in loading) * 1e3
    install_ms = max(figure.install_s for figure in loading) * 1e3
    prepare_ms = max(figure.prepare_s for figure in loading) * 1e3
    others = [
        (f"{NUM_ADAPTERS} adapters / base of {name}", f"{speed['adapters'] / speed[name]:.2f}", "1")
        for name in speed
        if name not in CONTENDERS
    ]
    return [
        *others,
        (f"{NUM_ADAPTERS} adapters / base", f"{speed['adapters'] / speed['base']:.0%}", "80%"),
        ("one adapter / base", f"{speed['one'] / speed['base']:.0%}", ""),
        ("longest step while loading, beyond an ordinary one, ms", f"{stall_ms:.0f}", "below 100"),
        ("putting an adapter in place, at most, ms", f"{install_ms:.0f}", ""),
        ("reading one on another thread meanwhile, at most, ms", f"{prepare_ms:.0f}", ""),
    ]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--against", nargs="*", default=[], metavar="ENGINE")
    parser.add_argument("--environments", type=Path, default=Path("~/martlet-peers"))
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
