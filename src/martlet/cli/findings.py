"""What a run of votes found, put in the forms in which it is told: figures, report, files."""

import json
from collections.abc import Sequence
from pathlib import Path

from martlet.answers.report import (
    Parameter,
    Report,
    RunFigures,
    render_html,
    render_markdown,
)
from martlet.answers.score import JudgedQuestion, ScoreCard, score
from martlet.batch.card import card_path
from martlet.batch.questions import Question
from martlet.batch.summary import JobSummary
from martlet.cli.voting import DecidedQuestion, VotingRules, question_place
from martlet.errors import ResourceError


def report_path(out: Path, suffix: str) -> Path:
    """Where the report of a result lies.

    Args:
        out: The result.
        suffix: `md` or `html`.
    """
    return Path(f"{out}.report.{suffix}")


def score_of(decided: Sequence[DecidedQuestion]) -> ScoreCard | None:
    """The score of the questions whose right answer is known; None if no such is there."""
    return score(
        [
            JudgedQuestion(
                name=question_place(each.question),
                question=_words(each.question),
                right=each.right,
                vote=each.vote,
                sample_answers=each.first_answers,
                kind=each.question.kind,
            )
            for each in decided
            if each.right is not None
        ]
    )


def figures_of(summary: JobSummary, decided: Sequence[DecidedQuestion]) -> RunFigures:
    """The figures of a run, its votes included."""
    num_drawn = max(1, summary.samples_drawn)
    return RunFigures(
        rows=summary.rows,
        failed=summary.failed,
        questions=summary.questions,
        failed_questions=summary.failed_questions,
        unparsed=sum(each.vote.winner is None for each in decided),
        unparsed_samples=sum(each.vote.num_unparsed for each in decided),
        samples_drawn=summary.samples_drawn,
        samples_saved=summary.samples_saved,
        tokens_saved=round(summary.samples_saved * summary.generated_tokens / num_drawn),
        prompt_tokens=summary.prompt_tokens,
        generated_tokens=summary.generated_tokens,
        cut_by_length=summary.cut_by_length,
        seconds=summary.seconds,
        tokens_per_second=summary.tokens_per_second,
    )


def report_of(
    out: Path,
    *,
    rules: VotingRules,
    figures: RunFigures,
    decided: Sequence[DecidedQuestion],
    score_card: ScoreCard | None,
) -> Report:
    """The report of a run, with what its card says of model, data and parameters."""
    card = json.loads(card_path(out).read_text(encoding="utf-8"))
    data = card["data"]["path"]
    return Report(
        title=f"Vote over {'standard input' if data == '-' else Path(data).name}",
        origin={
            "model": card["model"]["model"],
            "backend": f"{card['model']['backend']}, {card['model']['dtype']}",
            "data": data,
            "result": str(out),
            "finished": card["ended_at"],
        },
        figures=figures,
        num_samples=rules.num_samples,
        early_stop=str(rules.early_stop),
        extractor=rules.extractor_name,
        weighting=rules.weighting,
        margins=[each.vote.margin for each in decided if each.vote.winner is not None],
        score_card=score_card,
        parameters=[
            Parameter(name=name, value=json.dumps(each["value"]), source=each["source"])
            for name, each in card["parameters"].items()
        ],
    )


def write_report(out: Path, report: Report) -> None:
    """Writes the report beside the result, in Markdown and HTML.

    Raises:
        ResourceError: If it cannot be written.
    """
    try:
        report_path(out, "md").write_text(render_markdown(report), encoding="utf-8")
        report_path(out, "html").write_text(render_html(report), encoding="utf-8")
    except OSError as error:
        raise ResourceError(
            f"the report of {out} cannot be written: {error.strerror}; the result is there"
        ) from error


def _words(question: Question) -> str:
    """The question's own sentence, without the problem that it shares with others."""
    own: object = question.row.data
    nested = question.row.data.get("questions")
    if question.index is not None and isinstance(nested, list):
        own = nested[question.index]
    for name in ("question", "prompt", "query", "instruction"):
        if isinstance(own, dict) and isinstance(own.get(name), str):
            return str(own[name])
    return ""
