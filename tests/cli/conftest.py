"""How the tests call the command line: through its entry point, in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from martlet.cli import main


@dataclass(frozen=True)
class Called:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


Call = Callable[..., Called]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `martlet` with the given arguments in this process."""
    monkeypatch.delenv("MARTLET_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["martlet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main.run()
        printed = capsys.readouterr()
        code = exited.value.code
        return Called(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run
