"""The report of a vote, in Markdown and as one HTML page without outside parts.

Pure functions of what a run found; files and folders are the caller's business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from martlet.answers.score import JudgedQuestion, ScoreCard
from martlet.answers.vote import TIE_RULE

MAX_NUM_WRONG_SHOWN = 50
NUM_MARGIN_BINS = 10
_MAX_QUESTION_LENGTH = 160
_BAR_LENGTH = 24


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What a run of votes did, in numbers; its names are those of `--json`."""

    rows: int
    failed: int
    """Rows with an error."""
    questions: int
    failed_questions: int
    """Questions without a vote; no accuracy counts them."""
    unparsed: int
    """Questions none of whose samples states an answer."""
    unparsed_samples: int
    """Counted samples that state no answer."""
    samples_drawn: int
    samples_saved: int
    """Samples that early stop made needless."""
    tokens_saved: int
    """About what those would have measured, at the mean length of the counted ones."""
    prompt_tokens: int
    generated_tokens: int
    cut_by_length: int
    """Counted samples that ended at the limit of tokens."""
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One effective parameter of a run."""

    name: str
    value: str
    source: str
    """Where it came from: the command line, the model's folder, a default."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report shows."""

    title: str
    origin: Mapping[str, str]
    """What made it, by name: model, data, result, date."""
    figures: RunFigures
    num_samples: int
    """Samples of a full vote."""
    early_stop: str
    extractor: str
    weighting: str
    margins: Sequence[float]
    """Of each question that has a winner."""
    score_card: ScoreCard | None
    """None if no row carries the right answer."""
    parameters: Sequence[Parameter]


@dataclass(frozen=True, kw_only=True)
class _Bin:
    low: float
    high: float
    count: int
    share_of_largest: float

    @property
    def bar(self) -> str:
        """The bar in characters, for Markdown."""
        return "█" * round(self.share_of_largest * _BAR_LENGTH)


def render_markdown(report: Report) -> str:
    """The report in Markdown, with tables as GitHub writes them."""
    return _render("report.md.jinja", report)


def render_html(report: Report) -> str:
    """The report as one HTML page, light or dark as the reader's system is."""
    return _render("report.html.jinja", report)


def _render(template_name: str, report: Report) -> str:
    card = report.score_card
    wrong = card.wrong[:MAX_NUM_WRONG_SHOWN] if card else ()
    return (
        _environment()
        .get_template(template_name)
        .render(
            report=report,
            figures=report.figures,
            card=card,
            scores=[("all", card.total), *card.by_kind] if card else [],
            wrong=wrong,
            num_wrong_hidden=len(card.wrong) - len(wrong) if card else 0,
            bins=_margin_bins(report.margins),
            tie_rule=TIE_RULE,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("martlet.answers"),
        autoescape=lambda name: name is not None and ".html." in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f}%",
        "number": lambda value: f"{value:,.0f}",
        "duration": _duration,
        "cell": _cell,
        "code": _code,
        "shortened": _shortened,
        "votes": _votes,
    }
    return environment


def _margin_bins(margins: Sequence[float]) -> list[_Bin]:
    """Counts margins in equal bins from 0 to 1; 1 itself belongs to the last."""
    counts = [0] * NUM_MARGIN_BINS
    for margin in margins:
        counts[min(int(margin * NUM_MARGIN_BINS), NUM_MARGIN_BINS - 1)] += 1
    largest = max(1, *counts)
    return [
        _Bin(
            low=place / NUM_MARGIN_BINS,
            high=(place + 1) / NUM_MARGIN_BINS,
            count=count,
            share_of_largest=count / largest,
        )
        for place, count in enumerate(counts)
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _cell(text: str) -> str:
    """A text inside a cell of a Markdown table, where nothing may break the table or run."""
    escaped = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")
    return escaped.replace("<", "&lt;").replace("`", "\\`")


def _code(text: str) -> str:
    """A text as Markdown code, where backslashes stand for themselves."""
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    is_long = len(line) > _MAX_QUESTION_LENGTH
    return line[: _MAX_QUESTION_LENGTH - 1] + "…" if is_long else line


def _votes(question: JudgedQuestion) -> str:
    """The count of a vote in one line: `B 5 · A 2 · none 1`."""
    vote = question.vote
    parts = [f"{value} {count:.3g}" for value, count in vote.counts.items()]
    return " · ".join([*parts, *([f"none {vote.num_unparsed}"] if vote.num_unparsed else [])])
