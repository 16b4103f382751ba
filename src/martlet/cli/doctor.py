"""`martlet doctor`: is this set-up sound, and if not, which one command mends it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from martlet.cli.options.model import named_adapters
from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb
from martlet.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from martlet.doctor.checkup import Checkup
    from martlet.doctor.finding import Finding

_PANEL = "What is looked at"
_MIN_WIDTH = 100
_STATE_TO_STYLE = {"ok": "green", "warning": "yellow", "fault": "red"}


@verb
def doctor(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            envvar="MARTLET_MODEL",
            show_envvar=False,
            help="A folder, an id that was downloaded before, or demo.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        option(
            _PANEL,
            "A LoRA adapter, beside MODEL and the server; repeatable.",
            "--adapter",
            metavar="NAME=DIR",
        ),
    ] = None,
    chat_template: Annotated[
        Path | None,
        option(
            _PANEL,
            "A Jinja file in place of the model's chat template.",
            "--chat-template",
            metavar="FILE",
        ),
    ] = None,
    url: Annotated[
        str | None,
        option(
            _PANEL,
            "A server, beside MODEL and the adapters, as http://127.0.0.1:8000/v1.",
            "--url",
            metavar="URL[#NAME]",
        ),
    ] = None,
    port: Annotated[
        int, option(_PANEL, "The port that martlet serve is to take.", "--port", metavar="N")
    ] = 8000,
    as_json: JsonOption = False,
) -> None:
    """Look at the set-up: packages, machine, a model, its adapters, a server.

    What is wrong comes with the one command that mends it; begin with the first, which often
    brings about the others. Nothing is downloaded, loaded or changed. The exit code is 0 without a
    fault, else the one that a run would end with.
    """
    import json

    from martlet.backends.options import is_url
    from martlet.doctor.checkup import Checkup
    from martlet.doctor.finding import exit_code_of

    if model is not None and is_url(model):
        raise ParameterError(f"{model} is a server's URL; give it as --url {model}")
    checkup = Checkup(
        model=model,
        chat_template=chat_template,
        adapters=named_adapters(adapter or ()),
        url=url,
        port=port,
    )
    findings = _found(checkup)
    exit_code = exit_code_of(findings)
    _show(findings)
    if as_json:
        print(json.dumps(_as_json(findings, exit_code), ensure_ascii=False))
    raise typer.Exit(exit_code)


def _found(checkup: "Checkup") -> "Sequence[Finding]":
    from rich.console import Console

    with Console(stderr=True).status("looking at the packages") as status:
        return tuple(checkup.findings(lambda what: status.update(f"looking at {what}")))


def _show(findings: "Sequence[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _MIN_WIDTH)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("state", "subject", "what"):
        table.add_column(name, overflow="fold")
    for each in findings:
        style = _STATE_TO_STYLE[each.state]
        table.add_row(Text(each.state, style=style), each.subject, Text(each.what))
    console.print(table)
    for each in findings:
        if each.remedy is not None:
            # As one line, so that it can be copied.
            console.print(f"{each.subject}: {each.remedy}", markup=False, soft_wrap=True)


def _as_json(findings: "Sequence[Finding]", exit_code: int) -> dict[str, object]:
    from dataclasses import asdict

    return {"exit_code": exit_code, "findings": [asdict(each) for each in findings]}
