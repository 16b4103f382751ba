"""`martlet demo`: the embedded model answers the embedded puzzles, so that all can be seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from martlet.cli.options.result import JsonOption, OverwriteOption
from martlet.cli.verb import verb

if TYPE_CHECKING:
    from martlet.answers.score import ScoreCard
    from martlet.backends.base import Backend


@verb
def demo(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the result and its report go.")
    ] = Path("demo-run"),
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Answer puzzles with a tiny model that comes along, and show what a vote gains.

    Needs no download. The result holds the text of every sample; the report says how often one
    sample is right, and how often the vote.
    """
    from martlet import demo as embedded
    from martlet.answers.policy import EarlyStop
    from martlet.batch.options import JobOptions
    from martlet.cli.ask import run_votes
    from martlet.cli.summary import json_of_vote
    from martlet.cli.voting import DEFAULT_NUM_SAMPLES, VotingRules

    rules = VotingRules(
        num_samples=DEFAULT_NUM_SAMPLES,
        early_stop=EarlyStop(),
        extractor=None,
        weighting="none",
        with_replies=True,
    )
    _make_folder(folder)
    options = JobOptions(
        data=str(embedded.puzzles_path()), out=folder / "answers.jsonl", overwrite=overwrite
    )
    findings = run_votes(rules, options, _load)
    if as_json:
        print(json_of_vote(findings.figures, findings.score_card))
    elif findings.score_card is not None:
        _print_table(findings.score_card, num_samples=rules.num_samples)


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


def _print_table(card: "ScoreCard", *, num_samples: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", title="Accuracy, with 95% intervals", title_justify="left")
    for name in ("questions", "one sample", f"vote of {num_samples}"):
        table.add_column(name, justify="right")
    for name, score in (*card.by_kind, ("all", card.total)):
        cells = [str(score.num_questions), str(score.single), str(score.vote)]
        table.add_row(name, *cells, style="bold" if score is card.total else None)
    Console().print(table)
