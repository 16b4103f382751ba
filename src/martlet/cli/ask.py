"""Runs a batch under the user's eyes: loads the model, shows progress, stops when asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import typer

from martlet.answers.report import RunFigures
from martlet.answers.score import ScoreCard
from martlet.backends.base import Backend, BackendLimits, DefaultParams
from martlet.batch.card import card_path
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.parameters import ParamSources
from martlet.batch.summary import JobSummary
from martlet.cli.findings import figures_of, report_of, report_path, score_of, write_report
from martlet.cli.progress import progress_shown
from martlet.cli.stop import stop_on_signal
from martlet.cli.summary import counted, lines_of_run, lines_of_vote, tell
from martlet.cli.voting import Voting, VotingRules


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run of votes found."""

    figures: RunFigures
    score_card: ScoreCard | None


def run_job(job: Job, load: Callable[[], Backend]) -> JobSummary:
    """Runs a job that was read.

    Args:
        job: Its rows are checked already; its parameters are checked here, before the model loads.
        load: Loads the model.

    Raises:
        MartletError: As `load` and `Job.run` do.
    """
    announce(job)
    backend = load()
    try:
        fitted = fitted_job(job, backend.limits)
        with stop_on_signal() as stop_requested, progress_shown() as show:
            return fitted.run(backend, on_progress=show, stop_requested=stop_requested)
    finally:
        backend.close()


def announce(job: Job) -> None:
    """Says that a model is loaded for a job, if its parameters are good.

    Raises:
        ParameterError: If one is unknown or out of its range.
    """
    ParamSources(
        verb=job.task.verb,
        given=job.options.given_params,
        verb_defaults=job.task.defaults,
        verb_fixed=job.task.fixed,
    ).resolve({}, DefaultParams())
    num_rows = counted(len(job.row_file.rows), "row")
    typer.echo(f"{num_rows} read from {job.options.data}; loading the model", err=True)


def run_votes(rules: VotingRules, options: JobOptions, load: Callable[[], Backend]) -> Findings:
    """Runs votes over a file, writes the report beside the result, and tells what came of it.

    Args:
        rules: How votes are taken and counted.
        options: The rows and the result.
        load: Loads the model; called once all rows are checked.

    Raises:
        MartletError: As `Voting.read` and `run_job` do.
    """
    voting = Voting(rules)
    job = voting.read(options)
    summary = run_job(job, load)
    decided = voting.decided(job)
    figures, score_card = figures_of(summary, decided), score_of(decided)
    report = report_of(
        options.out, rules=rules, figures=figures, decided=decided, score_card=score_card
    )
    write_report(options.out, report)
    vote_lines = lines_of_vote(figures, score_card, num_samples=rules.num_samples)
    files = {
        "answers": options.out,
        "report": report_path(options.out, "html"),
        "card": card_path(options.out),
    }
    tell([*lines_of_run(summary), *vote_lines], files)
    return Findings(figures=figures, score_card=score_card)


def fitted_job(job: Job, limits: BackendLimits) -> Job:
    """A job whose own limit of reply tokens leaves half of a small model's context to prompts."""
    defaults = job.task.defaults
    max_tokens = defaults.get("max_tokens")
    if not isinstance(max_tokens, int):
        return job
    fitting = min(max_tokens, max(1, limits.max_context_tokens // 2))
    return replace(job, task=replace(job.task, defaults={**defaults, "max_tokens": fitting}))
