"""Runs a score under the user's eyes: contestant after contestant, then the table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.table import Table

from martlet.batch.options import JobOptions
from martlet.cli.ask import run_job
from martlet.cli.options.model import named_adapters
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.summary import Line, lines_of_run, tell
from martlet.errors import ParameterError, ResourceError
from martlet.score.comparison import Comparison, Flip, Standing, compare
from martlet.score.contest import Transcript, field_of, job_of
from martlet.score.exercise import ExerciseFile, read_exercises
from martlet.score.metric import make_metrics
from martlet.score.report import ScoreReport
from martlet.train.config import DataConfig

_NUM_FLIPS_SHOWN = 3
_NUM_CHARACTERS_SHOWN = 60
_MIN_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contestant."""

    name: str
    """Of its files and its line of the table."""
    model: str
    adapter: str | None = None
    """As `NAME=DIR`."""

    @classmethod
    def of(cls, model: str, *, adapters: Sequence[str], against: Sequence[str]) -> list["Entry"]:
        """The contestants of a command line, the model itself first.

        Raises:
            ParameterError: If two would have the same name.
        """
        entries = [cls(name=_file_name(model), model=model)]
        for name, folder in named_adapters(adapters).items():
            entries.append(cls(name=name, model=model, adapter=f"{name}={folder}"))
        for given in against:
            name, _, named = given.rpartition("=")
            entries.append(cls(name=name or _file_name(given), model=named))
        names = [entry.name for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise ParameterError(
                    f"two contestants are called {name!r}; name them apart: --against NAME=MODEL",
                    param="against",
                )
            if "/" in name or name.startswith("."):
                raise ParameterError(f"{name!r} cannot be a contestant's name: it names its file")
        return entries

    @property
    def described(self) -> str:
        """What answers, for people."""
        return f"{self.model} with {self.adapter}" if self.adapter else self.model


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What the user chooses about a score."""

    data: str
    rows: DataConfig
    metrics: tuple[str, ...]
    extract: str | None
    out: Path | None
    too_long: Literal["error", "skip", "truncate-left"]
    overwrite: bool
    params: Mapping[str, object]

    @property
    def num_samples(self) -> int:
        """Replies to each question."""
        given = self.params.get("n")
        return given if isinstance(given, int) else 1

    @property
    def folder(self) -> Path:
        """Where replies and report go."""
        return self.out or Path(f"{Path(self.data.split('#')[0]).stem}.score")


def run_score(
    options: ScoreOptions, entries: Sequence[Entry], runtime: RuntimeOptions
) -> ScoreReport:
    """Reads the rows, asks every contestant, compares, reports.

    Raises:
        MartletError: As `read_exercises`, `make_metrics` and `run_job` do.
    """
    file = read_exercises(options.data, options.rows)
    metrics = make_metrics(
        options.metrics,
        file.exercises,
        extract=options.extract,
        num_samples=options.num_samples,
    )
    folder = _made(options.folder)
    transcripts: dict[str, Transcript] = {}
    for place, entry in enumerate(entries, start=1):
        typer.echo(f"{entry.name} ({place} of {len(entries)}): {entry.described}", err=True)
        transcripts[entry.name] = _ask(entry, file, options, runtime, folder)
    field = field_of(file.exercises, transcripts)
    report = ScoreReport(
        data=options.data,
        contestants={entry.name: entry.described for entry in entries},
        num_questions=len(field.exercises),
        num_left_out=field.num_left_out,
        num_samples=options.num_samples,
        comparisons=[compare(metric, field.exercises, field.replies) for metric in metrics],
    )
    report.write(folder)
    _tell(report, folder)
    return report


def _ask(
    entry: Entry, file: ExerciseFile, options: ScoreOptions, runtime: RuntimeOptions, folder: Path
) -> Transcript:
    transcript = Transcript(file.exercises)
    job_options = JobOptions(
        data=options.data,
        out=folder / f"{entry.name}.jsonl",
        given_params=options.params,
        too_long=options.too_long,
        overwrite=options.overwrite,
    )
    job = job_of(file, job_options, transcript.task(options.num_samples))
    summary = run_job(job, lambda: runtime.load(entry.model, adapter=entry.adapter))
    tell([*lines_of_run(summary)], {})
    return transcript


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"--out {folder} cannot be made: {error.strerror}") from error
    return folder


def _file_name(model: str) -> str:
    """The last part of a folder, an id or a server's URL#NAME."""
    return Path(model.rsplit("#", 1)[-1]).resolve().name if model != "demo" else model


def _tell(report: ScoreReport, folder: Path) -> None:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _MIN_WIDTH)
    for comparison in report.comparisons:
        console.print(_table(comparison, is_alone=len(report.contestants) == 1))
        for line in _flip_lines(comparison):
            console.print(line, markup=False, soft_wrap=True)
    lines = []
    if report.num_left_out:
        lines.append(
            Line(
                text=f"left out: {report.num_left_out:,} questions that some contestant missed",
                is_bad=True,
            )
        )
    tell(lines, {"report": folder / "score.html", "figures": folder / "score.json"})


def _table(comparison: Comparison, *, is_alone: bool) -> Table:
    table = Table(title=comparison.metric.how, title_justify="left", box=None, pad_edge=False)
    table.add_column("contestant", overflow="fold")
    table.add_column("figure")
    table.add_column("score", justify="right")
    table.add_column("95% interval")
    if not is_alone:
        table.add_column("difference", justify="right")
        table.add_column("95% interval")
        table.add_column("better", justify="right")
        table.add_column("worse", justify="right")
        table.add_column("p", justify="right")
    for standing in comparison.standings:
        table.add_row(*_cells(standing))
    return table


def _cells(standing: Standing) -> Iterator[str]:
    estimate = standing.estimate
    yield standing.contestant
    yield standing.figure
    yield f"{100 * estimate.value:.1f}"
    yield f"{100 * estimate.interval.low:.1f} to {100 * estimate.interval.high:.1f}"
    if standing.difference is not None:
        moved = standing.difference.estimate
        yield _coloured(f"{100 * moved.value:+.1f}", moved.interval.low, moved.interval.high)
        yield f"{100 * moved.interval.low:+.1f} to {100 * moved.interval.high:+.1f}"
        yield f"{standing.difference.num_better:,}"
        yield f"{standing.difference.num_worse:,}"
        yield f"{standing.difference.p_value:.2g}"


def _coloured(text: str, low: float, high: float) -> str:
    """Green or red only where the interval leaves no doubt."""
    if low > 0:
        return f"[green]{text}[/green]"
    return f"[red]{text}[/red]" if high < 0 else text


def _flip_lines(comparison: Comparison) -> Iterator[str]:
    shown = comparison.flips[:_NUM_FLIPS_SHOWN]
    for flip in shown:
        yield _flip_line(flip)
    if len(comparison.flips) > len(shown):
        yield f"  and {len(comparison.flips) - len(shown):,} more rows that changed, in the report"


def _flip_line(flip: Flip) -> str:
    question = flip.exercise.question
    place = f"row {question.row.number}"
    if question.index is not None:
        place += f", question {question.index + 1}"
    said = " ".join(flip.replies[0].split())
    shown = said if len(said) <= _NUM_CHARACTERS_SHOWN else said[:_NUM_CHARACTERS_SHOWN] + "…"
    return (
        f"  {place}: {100 * flip.before:.0f} -> {100 * flip.after:.0f} with {flip.contestant}: "
        f"{shown}"
    )
