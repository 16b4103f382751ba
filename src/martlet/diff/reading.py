"""What one question was answered, whatever verb asked it, and whether that is right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from martlet.answers.extractor import Extractor, ExtractorMaker, parse_extractor
from martlet.answers.score import is_same_answer
from martlet.answers.vote import Answer, majority
from martlet.batch.shapes import Wording, checked_options, scalar_text
from martlet.errors import InputError, ParameterError
from martlet.score.exact_match import normalised

Columns = Mapping[str, object]

ADDED = frozenset(
    {
        "answer",
        "margin",
        "votes",
        "num_samples",
        "num_unparsed",
        "expected",
        "is_right",
        "reply",
        "replies",
        "finish_reason",
        "finish_reasons",
        "num_tokens",
        "num_dropped_tokens",
        "reference",
        "error",
    }
)
"""Columns that a result adds to a question; `answer` may have been the data's own."""
_LENIENT = Wording(allow_repeated_options=True)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a question was answered."""

    answer: str | None
    """The vote, the answer that a single reply states, or the reply; None if it states none."""
    is_right: bool | None
    """None where the right answer is not known."""
    ballots: tuple[str | None, ...] | None = None
    """What each sample says, where several voted with equal weight."""


def read_answer(columns: Columns, maker: ExtractorMaker | None) -> Reading:
    """Reads what a result says about one question, which did not fail.

    Args:
        columns: The question's, with those that the result added.
        maker: How answers are read in replies; None reads letters where a question has options,
            and else compares replies as they are.
    """
    if "votes" in columns:
        return _read_vote(columns)
    replies, options = _replies(columns), _options(columns)
    if maker is not None or options is not None:
        make = maker or parse_extractor("letter")
        return _read_stated(columns, replies, make(options or ()))
    answer = replies[0] if len(replies) == 1 else json.dumps(replies, ensure_ascii=False)
    reference = columns.get("reference")
    if not isinstance(reference, str) or len(replies) != 1:
        return Reading(answer=answer, is_right=None)
    return Reading(answer=answer, is_right=normalised(answer) == normalised(reference))


def _read_vote(columns: Columns) -> Reading:
    votes = cast(Mapping[str, float], columns["votes"])
    unparsed = cast(int, columns.get("num_unparsed", 0))
    ballots: tuple[str | None, ...] | None = None
    if all(float(count).is_integer() for count in votes.values()):
        said = [answer for answer, count in votes.items() for _ in range(int(count))]
        ballots = (*said, *[None] * unparsed)
    return Reading(
        answer=scalar_text(columns.get("answer")),
        is_right=cast(bool | None, columns.get("is_right")),
        ballots=ballots,
    )


def _read_stated(columns: Columns, replies: Sequence[str], extractor: Extractor) -> Reading:
    said = [extractor.extract(reply) for reply in replies]
    answer = majority([Answer(value=each) for each in said]).winner
    right = _right(columns, extractor)
    return Reading(
        answer=answer,
        is_right=None if right is None else is_same_answer(answer, right),
        ballots=tuple(said),
    )


def _right(columns: Columns, extractor: Extractor) -> str | None:
    known = scalar_text(columns.get("answer"))
    if known is not None:
        try:
            return extractor.canonical(known)
        except ParameterError:
            return extractor.extract(known)
    reference = columns.get("reference")
    return extractor.extract(reference) if isinstance(reference, str) else None


def _replies(columns: Columns) -> list[str]:
    several = columns.get("replies")
    return [str(each) for each in several] if isinstance(several, list) else [str(columns["reply"])]


def _options(columns: Columns) -> tuple[str, ...] | None:
    try:
        return checked_options(columns.get("options"), _LENIENT)
    except InputError:
        return None
