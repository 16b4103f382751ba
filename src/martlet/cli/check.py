"""`martlet check`: the doctor for training rows."""

from pathlib import Path
from typing import Annotated

import typer

from martlet.cli.options.model import ModelOption
from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb

_PANEL = "Rows"


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
        str | None, option(_PANEL, "A file of validation rows.", "--validation", metavar="FILE")
    ] = None,
    max_length: Annotated[
        int | None,
        option(_PANEL, "Tokens of a row, at most; as martlet train.", "--max-length", metavar="N"),
    ] = None,
    columns: Annotated[
        list[str] | None,
        option(
            _PANEL,
            "Which column is what: reply=summary. Repeatable.",
            "--map",
            metavar="ROLE=COLUMN",
        ),
    ] = None,
    prompt_template: Annotated[
        Path | None,
        option(_PANEL, "A Jinja file that words the prompt.", "--prompt-template", metavar="FILE"),
    ] = None,
    chat_template: Annotated[
        Path | None,
        option(
            _PANEL,
            "A Jinja file in place of the model's template.",
            "--chat-template",
            metavar="FILE",
        ),
    ] = None,
    allow_repeated_options: Annotated[
        bool, option(_PANEL, "Keep options that say the same.", "--allow-repeated-options")
    ] = False,
    show: Annotated[
        int | None,
        option(
            _PANEL,
            "Show a row as the model sees it, what is learned in green.",
            "--show",
            metavar="ROW",
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        option(_PANEL, "Write the sound rows to a new file.", "--fix", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at training rows as the model will see them, and say what is wrong.

    Finds rows that would be cut, replies that do not end, special tokens inside texts, duplicates,
    validation rows that are also learned, and more, each with its row numbers. Ends with exit code
    2 if something would spoil a training. Nothing is loaded but the tokenizer.
    """
    from martlet.cli.examination import Examination
    from martlet.train.config import DataConfig

    config = DataConfig(
        validation=validation,
        max_length=max_length,
        map=tuple(columns or ()),
        prompt_template=prompt_template,
        allow_repeated_options=allow_repeated_options,
    )
    examination = Examination.of(data, model, config, chat_template)
    if show is not None:
        examination.show(show)
        return
    examination.tell(as_json=as_json)
    if fix is not None:
        examination.fix(fix)
    examination.require_sound()
