"""The end of a run: a few lines on stderr for people, one JSON object on stdout for programs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from martlet.answers.report import RunFigures
from martlet.answers.score import Accuracy, ScoreCard
from martlet.batch.summary import JobSummary
from martlet.cli.progress import clock


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the summary."""

    text: str
    is_bad: bool = False
    """Whether it is told in red: something needs the user's hand."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 row`, `1,421 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def tell(lines: Sequence[Line], files: Mapping[str, Path]) -> None:
    """Writes the summary to stderr.

    Args:
        lines: What happened.
        files: What lies where, by name.
    """
    for line in lines:
        typer.secho(line.text, err=True, fg=typer.colors.RED if line.is_bad else None)
    width = max(map(len, files), default=0)
    for name, path in files.items():
        typer.secho(f"{name:<{width}}  {path}", err=True)


def lines_of_run(summary: JobSummary) -> Iterator[Line]:
    """What any run did: speed, errors, what was cut and what to do about it."""
    reused = f", {summary.samples_reused:,} from an earlier run" if summary.samples_reused else ""
    saved = f", {summary.samples_saved:,} saved by early stop" if summary.samples_saved else ""
    tokens = counted(summary.generated_tokens, "token")
    yield Line(
        text=f"{counted(summary.rows, 'row')}, {counted(summary.samples_drawn, 'sample')} drawn"
        f"{reused}{saved}, {tokens} in {clock(summary.seconds)} "
        f"({summary.tokens_per_second:,.0f} tokens/s)"
    )
    if summary.accepted_tokens:
        yield Line(
            text=f"foretold: {summary.accepted_tokens:,} of "
            f"{counted(summary.drafted_tokens, 'guessed token')} right, each a step saved"
        )
    if summary.failed:
        failed = counted(summary.failed, "row")
        yield Line(text=f"failed: {failed}; the first errors:", is_bad=True)
        yield from (Line(text=f"  {error}", is_bad=True) for error in summary.first_errors)
    if summary.cut_by_length:
        yield Line(
            text=f"cut by length: {counted(summary.cut_by_length, 'sample')}; raise --max-tokens",
            is_bad=True,
        )
    if summary.truncated_prompts:
        yield Line(
            text="cut at the beginning to fit the context: "
            f"{counted(summary.truncated_prompts, 'prompt')}",
            is_bad=True,
        )


def lines_of_vote(
    figures: RunFigures, card: ScoreCard | None, *, num_samples: int
) -> Iterator[Line]:
    """What the votes came to."""
    if card is not None:
        single, vote = card.total.single, card.total.vote
        yield Line(text=f"accuracy: one sample {single} -> vote of {num_samples} {vote}")
    if figures.unparsed:
        yield Line(
            text=f"without an answer: {counted(figures.unparsed, 'question')}; no sample states "
            "one that --extract reads",
            is_bad=True,
        )


def json_of_run(summary: JobSummary) -> str:
    """The summary of a run without votes; what only votes have is null."""
    nothing = ("unparsed", "accuracy", "accuracy_interval")
    return json.dumps({**asdict(summary), **dict.fromkeys(nothing)}, ensure_ascii=False)


def json_of_vote(figures: RunFigures, card: ScoreCard | None) -> str:
    """The summary of a run of votes; accuracies are null where no right answer is known."""
    vote = card.total.vote if card else None
    single = card.total.single if card else None
    scores = {
        "accuracy": vote and vote.value,
        "accuracy_interval": vote and _bounds(vote),
        "single_accuracy": single and single.value,
        "single_accuracy_interval": single and _bounds(single),
    }
    return json.dumps({**asdict(figures), **scores}, ensure_ascii=False)


def _bounds(accuracy: Accuracy) -> tuple[float, float]:
    return accuracy.interval.low, accuracy.interval.high
