"""A reply on stdout as it is drawn: Markdown in a terminal, the text as it is elsewhere.

A terminal cannot take back what has scrolled away. So the blocks of a Markdown text that nothing
can change any more are printed for good, and only the last one is drawn anew as it grows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import IO, TYPE_CHECKING, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.markdown import Markdown

_SECONDS_BETWEEN_REFRESHES = 0.06

Line = Sequence[Segment]


class Display(Protocol):
    """Shows one reply."""

    def push(self, text: str) -> None:
        """Shows the next piece."""
        ...


@contextmanager
def reply_shown(console: Console) -> Iterator[Display]:
    """Shows a reply for as long as the context lasts; at its end the reply stands there whole.

    Args:
        console: Where; Markdown is rendered if that is a terminal.
    """
    display = MarkdownDisplay(console) if console.is_interactive else PlainDisplay(console.file)
    with display:
        yield display


class PlainDisplay:
    """Writes a reply as it is, with a newline at its end."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._last = "\n"

    def push(self, text: str) -> None:
        """See `Display.push`."""
        self._file.write(text)
        self._file.flush()
        self._last = text[-1:] or self._last

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        if self._last != "\n":
            self.push("\n")


class MarkdownDisplay:
    """Renders a growing Markdown text.

    Args:
        console: A terminal.
        seconds_between_refreshes: What comes within them is shown together.
    """

    def __init__(
        self, console: Console, *, seconds_between_refreshes: float = _SECONDS_BETWEEN_REFRESHES
    ) -> None:
        self._console = console
        self._growing = _Lines()
        # Nothing but a push refreshes it: no thread writes in between.
        self._live = Live(self._growing, console=console, auto_refresh=False, transient=True)
        self._text = ""
        self._num_printed = 0
        """Lines that stand there for good."""
        self._seconds_between_refreshes = seconds_between_refreshes
        self._next_refresh = 0.0

    def push(self, text: str) -> None:
        """See `Display.push`."""
        self._text += text
        if monotonic() >= self._next_refresh:
            self._refresh()
            self._next_refresh = monotonic() + self._seconds_between_refreshes

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_error: object) -> None:
        self._show(settled=self._lines(self._text), growing=[])
        self._live.stop()

    def _refresh(self) -> None:
        settled = self._lines(settled_part(self._text))
        num_settled = max(len(settled), self._num_printed)
        self._show(settled=settled, growing=self._lines(self._text)[num_settled:])

    def _show(self, *, settled: Sequence[Line], growing: Sequence[Line]) -> None:
        self._growing.lines = growing[-(self._console.height - 1) :]
        if len(settled) > self._num_printed:
            # The live part moves below what is printed, in one write.
            self._console.print(_Lines(settled[self._num_printed :]), end="")
            self._num_printed = len(settled)
        else:
            self._live.refresh()

    def _lines(self, text: str) -> list[Line]:
        if not text.strip():
            return []
        return list(map(_trimmed, self._console.render_lines(markdown(text), pad=False)))


def markdown(text: str) -> "Markdown":
    """A text as Markdown, in which a line of the text stays a line: models mean them."""
    from rich.markdown import Markdown  # a terminal wants it, a pipe need not wait for it

    rendered = Markdown(text)
    for block in rendered.parsed:
        for token in block.children or ():
            if token.type == "softbreak":
                token.type = "hardbreak"
    return rendered


def settled_part(text: str) -> str:
    """All blocks of a Markdown text but the last: what is appended cannot change them."""
    blocks = markdown(text).parsed
    starts = [block.map[0] for block in blocks if block.level == 0 and block.map]
    lines = text.split("\n")
    return "\n".join(lines[: starts[-1]]) if starts else ""


@dataclass
class _Lines:
    """Lines that were rendered already."""

    lines: Sequence[Line] = ()

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            yield from line
            yield Segment.line()


def _trimmed(line: Line) -> Line:
    """Without the blanks at its end, which would be copied with it; a background stays."""
    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        last = kept.pop()
        if text := last.text.rstrip(" "):
            return [*kept, last._replace(text=text)]
    return kept
