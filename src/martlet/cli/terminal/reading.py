"""Questions as a person types them: edited lines, a history, and several lines as one question."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from martlet.errors import ResourceError

try:
    import readline
except ImportError:  # a Python without it still reads lines
    readline = None  # type: ignore[assignment]

QUOTES = '"""'
_MORE = "… "
_NUM_KEPT_LINES = 2000


def history_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where typed lines are kept.

    Source: XDG Base Directory Specification 0.8; a relative path in the variable counts as none.
    """
    base = Path(environment.get("XDG_STATE_HOME", ""))
    state = base if base.is_absolute() else Path.home() / ".local" / "state"
    return state / "martlet" / "chat_history"


class Reader:
    """Reads questions from the terminal.

    Args:
        history: The file of earlier lines, made if it is not there.
        complete: What a word at the end of a line may become.

    Raises:
        ResourceError: If the history cannot be kept.
    """

    def __init__(self, history: Path, complete: Callable[[str], Sequence[str]]) -> None:
        self._history = history
        self._complete = complete
        self._num_kept = 0
        if readline is not None:
            self._set_up()

    def read(self, prompt: str) -> str:
        r"""Reads one question, which may have several lines.

        A backslash at the end of a line, or Alt-Enter, asks for another; so do three quotes at the
        beginning, until three more.

        Args:
            prompt: Shown in front of the first line.

        Raises:
            EOFError: At Ctrl-D.
            KeyboardInterrupt: At Ctrl-C.
        """
        line = self._line(_styled(prompt))
        if line.lstrip().startswith(QUOTES):
            return self._quoted(line.lstrip().removeprefix(QUOTES))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(self._line(_styled(_MORE)))
        return "\n".join(lines)

    def edit(self, prompt: str, text: str) -> str:
        """Reads a question that starts as another one; raises as `read` does."""
        if readline is None:
            return self.read(prompt)
        readline.set_startup_hook(lambda: readline.insert_text(text))
        try:
            return self.read(prompt)
        finally:
            readline.set_startup_hook(None)

    def _quoted(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(self._line(_styled(_MORE)))
        lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if sys.stdout.isatty():
            line = input(prompt)
        else:  # stdout is for replies alone
            sys.stderr.write(prompt)
            sys.stderr.flush()
            line = input()
        self._keep()
        return line

    def _set_up(self) -> None:
        try:
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What was typed is nobody else's business.
            self._history.touch(mode=0o600)
            readline.read_history_file(self._history)
        except OSError as error:
            raise ResourceError(
                f"the history cannot be kept in {self._history}: {error.strerror}"
            ) from error
        readline.set_history_length(_NUM_KEPT_LINES)
        readline.set_completer_delims(" ")
        readline.set_completer(self._completion)
        readline.parse_and_bind("tab: complete")
        # Alt-Enter: a backslash and Enter.
        readline.parse_and_bind(r'"\e\C-m": "\\\C-m"')
        self._num_kept = readline.get_current_history_length()

    def _keep(self) -> None:
        if readline is None:
            return
        num_lines = readline.get_current_history_length()
        if num_lines > self._num_kept:
            readline.append_history_file(num_lines - self._num_kept, self._history)
        self._num_kept = num_lines

    def _completion(self, word: str, number: int) -> str | None:
        before = readline.get_line_buffer()[: readline.get_begidx()]
        fitting = [each for each in self._complete(before) if each.startswith(word)]
        return fitting[number] if number < len(fitting) else None


def _styled(prompt: str) -> str:
    r"""A prompt in bold; readline must be told which characters take no room."""
    bold, plain = "\x1b[1m", "\x1b[0m"
    if readline is None or not sys.stdout.isatty():
        return f"{bold}{prompt}{plain}"
    return f"\x01{bold}\x02{prompt}\x01{plain}\x02"
