"""`martlet diff`: which answers of two results flipped, and what explains it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from martlet.diff.difference import Difference, Flip, Judgement
    from martlet.diff.reading import Reading

_NUM_FLIPS_SHOWN = 5
_NUM_CHARACTERS_SHOWN = 60
_MIN_WIDTH = 100


@verb
def diff(
    *,
    first: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT1", show_default=False, help="Of vote, generate or score, with its card."
        ),
    ],
    second: Annotated[
        Path,
        typer.Argument(metavar="RESULT2", show_default=False, help="The same rows, run again."),
    ],
    extract: Annotated[
        str | None,
        option(
            "Result",
            "How answers are read in replies: letter, letters, number, json:FIELD or "
            "regex:PATTERN; else letters where rows have options.",
            "--extract",
            metavar="HOW",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two results: which answers flipped, whether by chance, which setting explains it.

    Rows are matched by their content. Nothing is computed anew: results and run cards suffice.
    """
    import json

    from martlet.diff.difference import compare_runs
    from martlet.diff.run import read_run

    difference = compare_runs(read_run(first, extract=extract), read_run(second, extract=extract))
    _show(difference)
    if as_json:
        print(json.dumps(_as_json(difference), ensure_ascii=False))


def _show(difference: "Difference") -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _MIN_WIDTH)
    for line in _lines(difference):
        console.print(line, markup=False, soft_wrap=True)
    _show_settings(difference, console)
    for flip in difference.flips[:_NUM_FLIPS_SHOWN]:
        console.print(_flip_line(flip), markup=False, soft_wrap=True)
    if (more := len(difference.flips) - _NUM_FLIPS_SHOWN) > 0:
        console.print(f"  and {more:,} more; --json holds all")


def _lines(difference: "Difference") -> "Iterator[str]":
    compared, flips = difference.num_compared, len(difference.flips)
    yield f"flipped: {flips:,} of {compared:,} questions ({flips / compared:.1%})"
    left_out = {
        "only in the first": difference.num_only_first,
        "only in the second": difference.num_only_second,
        "failed": difference.num_failed,
    }
    if any(left_out.values()):
        yield "left out: " + ", ".join(f"{n:,} {why}" for why, n in left_out.items() if n)
    if difference.judgement is not None:
        yield _judgement_line(difference.judgement)
    if difference.redraw_p_value is not None:
        yield (
            "drawing the same samples again would flip as many votes with "
            f"p = {difference.redraw_p_value:.2g}"
        )
    if flips:
        yield _verdict(difference)


def _judgement_line(judgement: "Judgement") -> str:
    before, after = judgement.num_right_first, judgement.num_right_second
    points = 100 * (after - before) / judgement.num_questions
    return (
        f"right: {before:,} -> {after:,} of {judgement.num_questions:,} ({points:+.1f} points); "
        f"{judgement.num_better:,} better, {judgement.num_worse:,} worse, "
        f"sign test p = {judgement.p_value:.2g}"
    )


def _verdict(difference: "Difference") -> str:
    names = ", ".join(each.name for each in difference.settings)
    if not names:
        return (
            "no setting differs: what computes rounds differently from run to run, or a server "
            "does not keep seeds"
        )
    match difference.is_beyond_chance:
        case True:
            sure = "more than chance"
        case False:
            sure = "no more than chance would do"
        case None:
            sure = "whether by chance cannot be told: no right answers, no votes"
    if len(difference.settings) == 1:
        return f"{sure}; nothing differs but the {names}"
    return f"{sure}; what differs, likeliest first; to tell them apart, change one at a time"


def _show_settings(difference: "Difference", console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    if not difference.settings:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("setting", "first", "second", "effect"):
        table.add_column(name, overflow="fold")
    for each in difference.settings:
        table.add_row(each.name, Text(each.first), Text(each.second), each.effect)
    console.print(table)


def _flip_line(flip: "Flip") -> str:
    return f"  {flip.place}: {_said(flip.first)} -> {_said(flip.second)}"


def _said(reading: "Reading") -> str:
    if reading.answer is None:
        said = "no answer"
    else:
        words = " ".join(reading.answer.split())
        shortened = words[:_NUM_CHARACTERS_SHOWN]
        said = words if words == shortened else shortened + "…"
    if reading.is_right is None:
        return said
    return f"{said} ({'right' if reading.is_right else 'wrong'})"


def _as_json(difference: "Difference") -> dict[str, object]:
    from dataclasses import asdict

    content = asdict(difference)
    for flip in content["flips"]:
        for side in ("first", "second"):
            flip[side].pop("ballots")
    return {**content, "is_beyond_chance": difference.is_beyond_chance}
