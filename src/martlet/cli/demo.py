"""`martlet demo`: the embedded model answers the embedded puzzles, so that all can be seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from martlet.cli.options import JsonOption
from martlet.cli.verb import verb

if TYPE_CHECKING:
    from martlet.answers.score import ScoreCard
    from martlet.backends.base import Backend

_NUM_SAMPLES = 8
_MAX_TOKENS = 256


@verb
def demo(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the result and its report go.")
    ] = Path("demo-run"),
    as_json: JsonOption = False,
) -> None:
    """Answer puzzles with a tiny model that comes along: no download, a minute on a laptop.

    Shows how much a vote of eight gains over one sample, and where the report lies.
    """
    from martlet import demo as embedded
    from martlet.answers.policy import EarlyStop
    from martlet.batch.options import JobOptions
    from martlet.cli.ask import run_votes
    from martlet.cli.summary import json_of_vote
    from martlet.cli.voting import VotingRules

    rules = VotingRules(
        num_samples=_NUM_SAMPLES,
        early_stop=EarlyStop(),
        extractor="letter",
        weighting="none",
        with_replies=True,
    )
    _make_folder(folder)
    options = JobOptions(
        data=str(embedded.puzzles_path()),
        out=folder / "answers.jsonl",
        given_params={"n": _NUM_SAMPLES, "max_tokens": _MAX_TOKENS},
    )
    findings = run_votes(rules, options, _load)
    if as_json:
        print(json_of_vote(findings.figures, findings.score_card))
    elif findings.score_card is not None:
        _print_table(findings.score_card)


def _load() -> "Backend":
    from martlet.backends.load import load_backend
    from martlet.models.resolve import DEMO

    return load_backend(DEMO)


def _make_folder(folder: Path) -> None:
    from martlet.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error


def _print_table(card: "ScoreCard") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", title="Accuracy, with 95% intervals", title_justify="left")
    for name in ("questions", "one sample", f"vote of {_NUM_SAMPLES}"):
        table.add_column(name, justify="right")
    for name, score in (*card.by_kind, ("all", card.total)):
        cells = [
            f"{each.value:.1%} ({each.interval.low:.0%} to {each.interval.high:.0%})"
            for each in (score.single, score.vote)
        ]
        table.add_row(
            name, str(score.num_questions), *cells, style="bold" if name == "all" else None
        )
    Console().print(table)
