"""The entry point: help, version, and errors in one red line with the exit code of their kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.cli import main
from martlet.errors import EngineError, Interrupted


def in_a_shell(
    *arguments: object, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "martlet.cli.main", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100", **(variables or {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_help_shows_every_verb_and_how_to_start(call: Call) -> None:
    shown = call("--help")
    assert shown.exit_code == 0
    for piece in (
        "vote",
        "generate",
        "chat",
        "info",
        "demo",
        "martlet demo",
        "MARTLET_MODEL",
        "130",
    ):
        assert piece in shown.stdout


@pytest.mark.parametrize("verb", ["vote", "generate", "chat", "info", "demo"])
def test_the_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys; sys.argv = ['martlet', sys.argv[1], '--help']\n"
        "from martlet.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, verb], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version(call: Call) -> None:
    assert call("--version").stdout == "martlet 0.1.0\n"


def test_an_error_is_one_line_with_its_exit_code(tmp_path: Path) -> None:
    done = in_a_shell("vote", tmp_path / "no.jsonl", "-m", "x", "-o", tmp_path / "out.jsonl")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == f"error: no such data file: {tmp_path / 'no.jsonl'}\n"


def test_a_bad_row_is_named_before_a_model_is_looked_for(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "?", "options": ["a", "b"]}\n{"question": \n', encoding="utf-8")
    done = in_a_shell("vote", data, "-m", "/no/model", "-o", tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert f"{data}, line 2: invalid JSON" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    arguments = ("generate", tmp_path / "no.jsonl", "-m", "x", "-o", tmp_path / "out.jsonl")
    for done in (
        in_a_shell("--debug", *arguments),
        in_a_shell(*arguments, variables={"MARTLET_DEBUG": "1"}),
    ):
        assert "Traceback" in done.stderr
        assert "NotFoundError" in done.stderr


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (EngineError("a step failed"), 7, "error: a step failed\n"),
        (Interrupted("stopped"), 130, "error: stopped\n"),
        (KeyboardInterrupt(), 130, "error: stopped\n"),
        (ValueError("odd"), 1, "error: internal error: ValueError: odd (--debug shows where)\n"),
    ],
)
def test_every_exception_ends_with_a_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    exit_code: int,
    line: str,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.delenv("MARTLET_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        main.ending_well(fail)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out, printed.err) == (exit_code, "", line)


def test_an_unknown_verb_or_option_is_bad_input(call: Call) -> None:
    assert call("vot").exit_code == 2
    assert call("vote", "x.jsonl", "--modle", "x").exit_code == 2
