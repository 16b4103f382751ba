"""The real program in a pseudo-terminal, typed to as a person would."""

import codecs
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")
ENTER, CTRL_C, CTRL_D, ALT_ENTER, UP, TAB = "\r", "\x03", "\x04", "\x1b\r", "\x1b[A", "\t"
_PATIENCE_S = 60
_LOOKS = 5
"""In a row that find the program idle."""
_LOCAL_FLAGS = 3
"""Of what `tcgetattr` returns."""


class Terminal:
    """A program's terminal, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.raw = ""
        """All that came, as it came."""
        self._num_seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def press(self, key: str) -> None:
        """Types a key that means something else, or is lost, before the program waits for one.

        Between its prompt and the moment when it waits for a key, Python overlooks a Ctrl-C.
        """
        end, num_idle = time.monotonic() + _PATIENCE_S, 0
        while num_idle < _LOOKS:
            assert time.monotonic() < end, plain(self.raw)
            num_idle = num_idle + 1 if self._is_idle() else 0
            time.sleep(0.02)
        self.type(key)

    def _is_idle(self) -> bool:
        """Whether the terminal leaves the line to the program, and all its threads sleep: where one
        runs, another may wait for it and not for a key."""
        gathers_lines = termios.tcgetattr(self._master)[_LOCAL_FLAGS] & termios.ICANON
        stats = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        states = [stat.read_text().rpartition(") ")[2][0] for stat in stats]
        return not gathers_lines and set(states) == {"S"}

    def say(self, line: str) -> None:
        """Types a line and Enter."""
        self.type(line + ENTER)

    def wait_for(self, pattern: str, *, timeout_s: float = _PATIENCE_S) -> str:
        """Reads until a regular expression matches, in what came since the last match.

        Returns:
            The text from there to the end of the match, without control sequences.
        """
        end = time.monotonic() + timeout_s
        while True:
            text = plain(self.raw)[self._num_seen :]
            if match := re.search(pattern, text):
                self._num_seen += match.end()
                return text[: match.end()]
            left = end - time.monotonic()
            assert left > 0, f"no {pattern!r} in {text!r}"
            if select.select([self._master], [], [], min(left, 0.5))[0]:
                self._read()

    def wait(self, *, timeout_s: float = 30) -> int:
        """Waits for the end of the program; its exit code."""
        end = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < end, plain(self.raw)
            if select.select([self._master], [], [], 0.1)[0]:
                self._read()
        return self.process.returncode

    def _read(self) -> None:
        try:
            self.raw += self._decoder.decode(os.read(self._master, 65536))
        except OSError:  # how Linux says that the other side is closed
            time.sleep(0.01)


def plain(text: str) -> str:
    """What a terminal would show of a text, roughly: without control sequences."""
    return _CONTROL.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def chatting(
    *arguments: object, state: Path, columns: int = 100, lines: int = 40
) -> Iterator[Terminal]:
    """`martlet chat` at a terminal of its own, for as long as the context lasts."""
    environment = chat_environment(state, {"TERM": "xterm-256color"})
    command = chat_command(*arguments)
    with in_terminal(command, environment, columns=columns, lines=lines) as terminal:
        yield terminal


@contextmanager
def in_terminal(
    command: Sequence[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 40
) -> Iterator[Terminal]:
    """A program at a terminal of its own, for as long as the context lasts."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (lines, columns))
    process = subprocess.Popen(
        command,
        preexec_fn=lambda: _log_in(slave),
        close_fds=True,
        pass_fds=[slave],
        env=environment,
    )
    os.close(slave)
    terminal = Terminal(process, master)
    try:
        yield terminal
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)


def _log_in(slave: int) -> None:
    """What a terminal does before it starts a program: Ctrl-C is a signal, and not ignored."""
    os.login_tty(slave)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def chat_command(*arguments: object) -> Sequence[str]:
    return [sys.executable, "-m", "martlet.cli.main", "chat", *map(str, arguments)]


def chat_environment(state: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    own = {
        "XDG_STATE_HOME": str(state),
        "OMP_NUM_THREADS": "1",
        "INPUTRC": "/dev/null",
        **(variables or {}),
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("MARTLET")}
    return {**others, **own}
