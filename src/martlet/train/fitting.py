"""What becomes of rows longer than training computes: decided by the user, told to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from martlet.errors import InputError
from martlet.train.config import TooLong
from martlet.train.encoding import EncodedExample, EncodedPreference, Encoder
from martlet.train.example import Conversation, Example, Origin, Preference

_NUM_NAMED = 5
"""Rows that a message names."""

Encoded = EncodedExample | EncodedPreference


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What was left out of a row."""

    origin: Origin
    num_tokens: int
    """Left out; of a row that was skipped, all of it."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Rows of which none is longer than training computes."""

    examples: tuple[Example, ...]
    """As they are learned: those that were cut lack their oldest turns."""
    encoded: tuple[Encoded, ...]
    """What they became, in the same order; a row may be several sequences."""
    losses: tuple[Loss, ...]


def fit_rows(
    rows: Sequence[Example], encoder: Encoder, *, max_length: int, too_long: TooLong
) -> Fitted:
    """Encodes rows, none longer than training computes.

    Args:
        too_long: `error` refuses them, `skip` leaves them out, `truncate-left` drops their oldest
            turns until they fit; system messages and the last turn stay.

    Raises:
        InputError: If rows are too long and may not be, or stay so.
    """
    examples: list[Example] = []
    fitting: list[Encoded] = []
    losses: list[Loss] = []
    refused: list[tuple[Example, int]] = []
    for row in rows:
        kept, encoded = row, _encoded(row, encoder)
        length = _longest(encoded)
        if length > max_length and too_long == "truncate-left" and isinstance(row, Conversation):
            kept, encoded = _shortened(row, encoder, max_length)
        if _longest(encoded) <= max_length:
            examples.append(kept)
            fitting += encoded
            if length > max_length:
                losses.append(Loss(origin=row.origin, num_tokens=length - _longest(encoded)))
        elif too_long == "skip":
            losses.append(Loss(origin=row.origin, num_tokens=length))
        else:
            refused.append((row, length))
    if refused:
        raise InputError(_refusal(refused, max_length, too_long))
    return Fitted(examples=tuple(examples), encoded=tuple(fitting), losses=tuple(losses))


def _encoded(row: Example, encoder: Encoder) -> tuple[Encoded, ...]:
    if isinstance(row, Preference):
        return (encoder.encode_preference(row),)
    return encoder.encode(row)


def _shortened(
    row: Conversation, encoder: Encoder, max_length: int
) -> tuple[Conversation, tuple[EncodedExample, ...]]:
    """The row without as many of its oldest turns as it takes, and as it was if that is no help."""
    questions = [i for i, each in enumerate(row.messages) if each.get("role") == "user"]
    for first in questions[1:]:
        kept = [
            i for i, each in enumerate(row.messages) if i >= first or each.get("role") == "system"
        ]
        shorter = replace(
            row,
            messages=tuple(row.messages[i] for i in kept),
            untrained=frozenset(kept.index(i) for i in row.untrained if i in kept),
        )
        encoded = encoder.encode(shorter)
        if _longest(encoded) <= max_length:
            return shorter, encoded
    return row, encoder.encode(row)


def _longest(encoded: Sequence[Encoded]) -> int:
    return max(map(_length, encoded), default=0)


def _length(encoded: Encoded) -> int:
    if isinstance(encoded, EncodedExample):
        return len(encoded.token_ids)
    return len(encoded.prompt_ids) + max(len(encoded.chosen_ids), len(encoded.rejected_ids))


def _refusal(refused: Sequence[tuple[Example, int]], max_length: int, too_long: TooLong) -> str:
    named = ", ".join(f"{row.origin} ({length})" for row, length in refused[:_NUM_NAMED])
    more = ", …" if len(refused) > _NUM_NAMED else ""
    advice = (
        "--too-long skip leaves them out"
        if too_long == "truncate-left"
        else "--too-long skip leaves them out, --too-long truncate-left drops their oldest turns"
    )
    return (
        f"{len(refused)} rows are longer than {max_length} tokens: {named}{more}; {advice}, and "
        "--max-length allows more where the model does"
    )
