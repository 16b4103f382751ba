"""How the tests call the command line: through its entry point, with a backend of their own."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cli.answering_backend import AnsweringBackend
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


@dataclass
class Backends:
    """What commands load in place of a model."""

    max_context_tokens: int = 4096
    fail_on: str | None = None
    loaded: list[AnsweringBackend] = field(default_factory=list)

    def load(self, *_model: str, **_options: object) -> AnsweringBackend:
        made = AnsweringBackend(max_context_tokens=self.max_context_tokens, fail_on=self.fail_on)
        self.loaded.append(made)
        return made


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    """Every command loads an `AnsweringBackend`; the test may set how it behaves."""
    backends = Backends()
    monkeypatch.setattr("martlet.backends.load.load_backend", backends.load)
    return backends
