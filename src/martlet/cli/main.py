"""The command line: `martlet VERB`. Results go to stdout or files, talk to stderr.

Importing it loads Typer and nothing heavier; what a verb needs, it imports itself.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from martlet import __version__
from martlet.cli.bench import bench
from martlet.cli.chat import chat
from martlet.cli.check import check
from martlet.cli.demo import demo
from martlet.cli.diff import diff
from martlet.cli.doctor import doctor
from martlet.cli.generate import generate
from martlet.cli.info import info
from martlet.cli.merge import merge
from martlet.cli.quantize import quantize
from martlet.cli.quick import leaving_at_once
from martlet.cli.score import score
from martlet.cli.serve import serve
from martlet.cli.train import train
from martlet.cli.ui import ui
from martlet.cli.vote import vote
from martlet.errors import Interrupted, MartletError

_DEBUG_VARIABLE = "MARTLET_DEBUG"
# Markdown joins the lines of a paragraph.
_EPILOG = """
Start with `martlet demo`; then, say,
`martlet vote questions.jsonl --model ./model --out answers.jsonl`.

Each option has an environment variable: `MARTLET_MODEL` for `--model`, `MARTLET_TOP_P` for
`--top-p`.

Exit codes: 0 done, 2 bad input, 3 not found, 4 unusable model, 5 extra missing, 6 no room,
7 engine failed, 9 certificate failed, 130 stopped.
"""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog=_EPILOG,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"martlet {__version__}")
        raise typer.Exit


def _switch_debug(is_asked: bool) -> None:
    if is_asked:
        os.environ[_DEBUG_VARIABLE] = "1"


@app.callback()
def martlet(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=_switch_debug,
            is_eager=True,
            envvar=_DEBUG_VARIABLE,
            show_envvar=False,
            help="Show the whole traceback of an error.",
        ),
    ] = False,
) -> None:
    """Train an open language model, prove it, ask it whole files by vote, serve it, talk to it."""


_VERBS = (
    vote,
    generate,
    check,
    train,
    merge,
    quantize,
    score,
    bench,
    diff,
    serve,
    ui,
    chat,
    info,
    doctor,
    demo,
)
for _verb in _VERBS:
    app.command()(_verb)


def run() -> None:
    """Runs the command line and exits: an error is one red line and the exit code of its kind.

    Who is told to end, ends as by Ctrl-C: processes that it started end with it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with leaving_at_once():
        ending_well(app)


def ending_well(program: Callable[[], object]) -> None:
    """Runs a program; its error is one red line and the exit code of its kind."""
    try:
        program()
    except MartletError as error:
        _end(f"{error}", exit_code=error.exit_code)
    except KeyboardInterrupt:
        _end("stopped", exit_code=Interrupted.exit_code)
    except Exception as error:
        _end(
            f"internal error: {type(error).__name__}: {error} (--debug shows where)",
            exit_code=MartletError.exit_code,
        )


def _end(message: str, *, exit_code: int) -> NoReturn:
    """Called while an exception is handled; with `--debug` that one goes on instead."""
    if os.environ.get(_DEBUG_VARIABLE, "0") not in ("", "0"):
        raise
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    run()
