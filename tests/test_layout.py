"""The folder tree is the architecture: imports point downwards, and the light parts stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import martlet

PACKAGE = Path(martlet.__file__).parent
LAYERS = [
    {"compat"},
    {"cli"},
    {"serve", "ui"},
    {"bench", "doctor", "diff", "forecast"},
    {"score"},
    {"train", "export"},
    {"batch"},
    {"backends", "answers"},
    {"engine"},
    {"lora", "text"},
    {"models"},
    {"errors", "demo"},
]
"""From the top down: a module may import its own folder and the layers below."""
SCRIPTS = {
    "martlet.demo.lessons",
    "martlet.demo.training",
    "martlet.demo.evaluation",
    "martlet.demo.rows",
}
"""Run by hand to make the embedded model; they use what they are made for."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are written in full"
            yield node.module


def layer_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "martlet" or len(parts) == 1:
        return None
    return next(depth for depth, names in enumerate(LAYERS) if parts[1] in names)


def test_imports_point_downwards() -> None:
    wrong = []
    for module, path in modules():
        own_layer = layer_of(module)
        if own_layer is None or module in SCRIPTS:
            continue
        for imported in imported_modules(path):
            layer = layer_of(imported)
            if layer is None or imported.split(".")[1] == module.split(".")[1]:
                continue
            if layer <= own_layer:
                wrong.append(f"{module} imports {imported}")
    assert not wrong, "\n".join(wrong)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "martlet",
        "martlet.errors",
        "martlet.engine.scheduler",
        "martlet.engine.block_pool",
        "martlet.batch.job",
        "martlet.answers.policy",
        "martlet.cli.main",
        "martlet.compat.swift.__main__",
        "martlet.compat.inference_hf.__main__",
        "martlet.serve.address",
        "martlet.serve.keys",
        "martlet.serve.settings",
    ],
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert run_python(code) == "False"


def test_help_is_instant_and_imports_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "martlet.cli.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "vote" in done.stdout
    assert " torch" not in done.stderr
    # Counted and not timed, since other programs use the machine meanwhile. Two hundred are those
    # of Typer and Rich; torch alone has seven hundred.
    assert len(done.stderr.splitlines()) < 450


def test_the_public_surface_is_listed_and_importable() -> None:
    assert martlet.__all__ == ["LLM", "MartletError", "SamplingParams", "__version__"]
    for name in martlet.__all__:
        assert getattr(martlet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'llm2'"):
        _ = martlet.llm2  # type: ignore[attr-defined]
