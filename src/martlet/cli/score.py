"""`martlet score`: models side by side on rows that hold the right replies."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption, OverwriteOption
from martlet.cli.options.rows import ROWS
from martlet.cli.options.runtime import BatchRuntimeOptions
from martlet.cli.options.sampling import SamplingOptions
from martlet.cli.options.wording import WordingOptions
from martlet.cli.verb import verb

_PANEL = "Score"


@verb
def score(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="What others are compared with: a folder, an id, demo, or a server: URL#NAME.",
        ),
    ],
    data: Annotated[
        str,
        option(
            ROWS,
            "Rows with their right replies, as martlet train takes them; dev.jsonl#500 takes some.",
            "--data",
            "-d",
            metavar="FILE",
        ),
    ],
    metric: Annotated[
        list[str] | None,
        option(
            _PANEL,
            "accuracy, exact-match, rouge or bleu; repeatable. Unless given, accuracy for rows "
            "with options, else rouge and bleu.",
            "--metric",
            metavar="NAME",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        option(
            _PANEL,
            "Also score this LoRA adapter on MODEL; repeatable.",
            "--adapter",
            metavar="NAME=DIR",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        option(
            _PANEL,
            "Also score this model, say a merged or quantised one; repeatable.",
            "--against",
            metavar="[NAME=]MODEL",
        ),
    ] = None,
    extract: Annotated[
        str | None,
        option(
            _PANEL,
            "How accuracy reads an answer: letter, letters, number, json:FIELD or regex:PATTERN.",
            "--extract",
            metavar="HOW",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Result",
            "The folder for replies and report; unless given, DATA.score in this folder.",
            "--out",
            "-o",
            metavar="DIR",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    too_long: Annotated[
        Literal["error", "skip", "truncate-left"],
        option(ROWS, "What to do with a prompt that leaves no room to reply.", "--too-long"),
    ] = "error",
    as_json: JsonOption = False,
    wording: WordingOptions,
    sampling: SamplingOptions,
    runtime: BatchRuntimeOptions,
) -> None:
    """Score replies against the right ones: a base, its adapters, merged models, side by side.

    Each contestant replies to every row, greedily unless told otherwise; `--samples 8` draws
    several, and accuracy then also votes. Every figure comes with its 95% interval, each
    difference with the rows that are better and worse; `score.html` shows them. An interrupted
    score goes on where it stopped: give the same command again.
    """
    import json

    from martlet.cli.scoring import Entry, ScoreOptions, run_score

    options = ScoreOptions(
        data=data,
        rows=wording.data_config(),
        metrics=tuple(metric or ()),
        extract=extract,
        out=out,
        too_long=too_long,
        overwrite=overwrite,
        params=sampling.given_params(),
    )
    entries = Entry.of(model, adapters=adapter or (), against=against or ())
    report = run_score(options, entries, runtime)
    if as_json:
        print(json.dumps(report.as_json(with_flips=False), ensure_ascii=False))
