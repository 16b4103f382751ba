"""Several replies to one prompt, side by side as they grow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.table import Table

from martlet.cli.terminal.display import markdown
from martlet.cli.terminal.speaker import Show

_SECONDS_BETWEEN_REFRESHES = 0.1


@contextmanager
def comparison_shown(console: Console, names: Sequence[str]) -> Iterator[Show]:
    """Shows replies for as long as the context lasts; at its end they stand there whole.

    Args:
        console: Where; elsewhere than in a terminal they come one after the other.
        names: Of those who reply.

    Yields:
        What gets the number of a reply, and its next piece.
    """
    texts = [""] * len(names)
    if not console.is_interactive:
        yield lambda index, text: _append(texts, index, text)
        for name, text in zip(names, texts, strict=True):
            console.file.write(f"## {name}\n\n{text}\n\n")
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        next_refresh = 0.0

        def show(index: int, text: str) -> None:
            nonlocal next_refresh
            _append(texts, index, text)
            if monotonic() >= next_refresh:
                live.update(_table(names, texts), refresh=True)
                next_refresh = monotonic() + _SECONDS_BETWEEN_REFRESHES

        yield show
    console.print(_table(names, texts))


def _append(texts: list[str], index: int, text: str) -> None:
    texts[index] += text


def _table(names: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table(*names, expand=True)
    for column in table.columns:
        column.ratio, column.overflow = 1, "fold"
    table.add_row(*map(markdown, texts))
    return table
