"""What every `--plan` shows: how far its probe is, and the command that goes on from it."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from martlet.cli.progress import clock
from martlet.forecast.probe import SECONDS


@contextmanager
def probe_shown(doing: str) -> Iterator[Callable[[float, str], None]]:
    """Shows a probe for as long as the context lasts: a bar in a terminal, a line elsewhere.

    Args:
        doing: What happens in it.

    Yields:
        What is to be called with the seconds that have passed, and what was done in them.
    """
    if not sys.stderr.isatty():
        typer.echo(f"{doing}, for {SECONDS:.0f} s", err=True)
        yield lambda _seconds, _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=SECONDS)
        yield lambda seconds, done: display.update(
            task,
            completed=seconds,
            description=f"{doing} · {done} · {clock(max(0.0, SECONDS - seconds))} left",
        )


def command_to_go() -> str:
    """The command line of a plan, without what makes it one."""
    kept: list[str] = []
    rest = iter(sys.argv[1:])
    for word in rest:
        if word == "--price":
            next(rest, None)
        elif word != "--plan" and not word.startswith("--price="):
            kept.append(word)
    return shlex.join(["martlet", *kept])
