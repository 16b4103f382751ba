"""`martlet check`: the doctor for training rows."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from martlet.cli.options.model import ModelOption
from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.options.rows import ROWS
from martlet.cli.options.wording import WordingOptions
from martlet.cli.verb import verb


@verb
def check(
    *,
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            show_default=False,
            help="Files of rows, as martlet train takes them.",
        ),
    ],
    model: ModelOption,
    validation: Annotated[
        str | None, option(ROWS, "A file of validation rows.", "--validation", metavar="FILE")
    ] = None,
    max_length: Annotated[
        int | None,
        option(ROWS, "Tokens of a row, at most; as martlet train.", "--max-length", metavar="N"),
    ] = None,
    chat_template: Annotated[
        Path | None,
        option(
            ROWS,
            "A Jinja file in place of the model's template.",
            "--chat-template",
            metavar="FILE",
        ),
    ] = None,
    show: Annotated[
        int | None,
        option(
            ROWS,
            "Show a row as the model sees it, what is learned in green.",
            "--show",
            metavar="ROW",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        option(ROWS, "Write the sound rows to a new file.", "--fix", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
    wording: WordingOptions,
) -> None:
    """Look at training rows as the model will see them, and say what is wrong.

    Finds rows that would be cut, replies that do not end, special tokens inside texts, duplicates,
    validation rows that are also learned, and more, each with its row numbers. Ends with exit code
    2 if something would spoil a training. Nothing is loaded but the tokenizer.
    """
    from martlet.cli.examination import Examination

    config = replace(wording.data_config(), validation=validation, max_length=max_length)
    examination = Examination.of(data, model, config, chat_template)
    if show is not None:
        examination.show(show)
        return
    examination.tell(as_json=as_json)
    if fix is not None:
        examination.fix(fix)
    examination.require_sound()
