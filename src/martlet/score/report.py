"""The report of a score: one HTML page for people, one JSON file for programs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from martlet.batch.disk import disk_errors_named
from martlet.score.comparison import Comparison, Estimate, Flip, Standing

MAX_NUM_FLIPS_SHOWN = 200
"""In the page; the JSON file holds all."""
_NUM_SHOWN_CHARACTERS = 600


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """All that a score found."""

    data: str
    contestants: Mapping[str, str]
    """From a contestant's name to its model."""
    num_questions: int
    num_left_out: int
    num_samples: int
    comparisons: Sequence[Comparison]

    def as_json(self, *, with_flips: bool) -> dict[str, object]:
        """The report as JSON holds it.

        Args:
            with_flips: Whether the rows that flipped are in it, with their texts.
        """
        content: dict[str, object] = {
            "data": self.data,
            "contestants": dict(self.contestants),
            "questions": self.num_questions,
            "left_out": self.num_left_out,
            "samples": self.num_samples,
            "metrics": {each.metric.figures[-1]: each.metric.how for each in self.comparisons},
            "figures": [
                _figure(standing) for each in self.comparisons for standing in each.standings
            ],
        }
        if with_flips:
            content["flips"] = [_flip(flip) for each in self.comparisons for flip in each.flips]
        return content

    def write(self, folder: Path) -> None:
        """Writes `score.json` and `score.html`.

        Raises:
            ResourceError: If the disk is full or fails.
        """
        text = json.dumps(self.as_json(with_flips=True), ensure_ascii=False, indent=2)
        page = _environment().get_template("score.html.jinja").render(report=self)
        for name, content in {"score.json": text + "\n", "score.html": page}.items():
            with disk_errors_named(folder / name):
                (folder / name).write_text(content, encoding="utf-8")


def asked(flip: Flip) -> str:
    """The last thing that was asked, in words."""
    prompt = flip.exercise.question.prompt
    if prompt.messages:
        content = prompt.messages[-1].get("content")
        return content if isinstance(content, str) else ""
    return prompt.text or ""


def _figure(standing: Standing) -> dict[str, object]:
    figure: dict[str, object] = {
        "contestant": standing.contestant,
        "figure": standing.figure,
        **_estimate(standing.estimate),
    }
    if standing.difference is not None:
        figure["difference"] = {
            **_estimate(standing.difference.estimate),
            "better": standing.difference.num_better,
            "worse": standing.difference.num_worse,
            "p_value": standing.difference.p_value,
        }
    return figure


def _estimate(estimate: Estimate) -> dict[str, object]:
    return {
        "value": estimate.value,
        "interval": [estimate.interval.low, estimate.interval.high],
    }


def _flip(flip: Flip) -> dict[str, object]:
    return {
        "contestant": flip.contestant,
        "figure": flip.figure,
        "row": flip.exercise.question.row.number,
        "question": flip.exercise.question.index,
        "before": flip.before,
        "after": flip.after,
        "asked": asked(flip),
        "reference": flip.exercise.reference,
        "first_replies": list(flip.first_replies),
        "replies": list(flip.replies),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("martlet.score"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"max_flips": MAX_NUM_FLIPS_SHOWN}
    filters: dict[str, Callable[..., str]] = {
        "points": lambda share: f"{100 * share:.1f}",
        "moved": lambda share: f"{100 * share:+.1f}",
        "number": lambda value: f"{value:,}",
        "asked": asked,
        "shortened": _shortened,
    }
    environment.filters |= filters
    return environment


def _shortened(text: str) -> str:
    """Its end, which is where a question stands."""
    text = text.strip()
    return text if len(text) <= _NUM_SHOWN_CHARACTERS else "…" + text[-_NUM_SHOWN_CHARACTERS:]
