"""What becomes of rows longer than training computes: decided by the user, told to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from martlet.errors import InputError
from martlet.train.config import TooLong
from martlet.train.encoding import EncodedExample, Encoder
from martlet.train.example import Completion, Conversation, Origin

_NUM_NAMED = 5
"""Rows that a message names."""

Row = Conversation | Completion


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What was left out of a row."""

    origin: Origin
    num_tokens: int
    """Left out; of a row that was skipped, all of it."""


def fit_rows(
    rows: Sequence[Row], encoder: Encoder, *, max_length: int, too_long: TooLong
) -> tuple[tuple[EncodedExample, ...], tuple[Loss, ...]]:
    """Encodes rows, none longer than training computes.

    Args:
        too_long: `error` refuses them, `skip` leaves them out, `truncate-left` drops their oldest
            turns until they fit; system messages and the last turn stay.

    Returns:
        The sequences, and what was left out.

    Raises:
        InputError: If rows are too long and may not be, or stay so.
    """
    sequences: list[EncodedExample] = []
    losses: list[Loss] = []
    refused: list[tuple[Row, int]] = []
    for row in rows:
        encoded = encoder.encode(row)
        length = _longest(encoded)
        if length > max_length and too_long == "truncate-left" and isinstance(row, Conversation):
            encoded = _shortened(row, encoder.encode, max_length)
        if _longest(encoded) <= max_length:
            sequences += encoded
            if length > max_length:
                losses.append(Loss(origin=row.origin, num_tokens=length - _longest(encoded)))
        elif too_long == "skip":
            losses.append(Loss(origin=row.origin, num_tokens=length))
        else:
            refused.append((row, length))
    if refused:
        raise InputError(_refusal(refused, max_length, too_long))
    return tuple(sequences), tuple(losses)


def _shortened(
    row: Conversation, encode: Callable[[Row], tuple[EncodedExample, ...]], max_length: int
) -> tuple[EncodedExample, ...]:
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
        encoded = encode(shorter)
        if _longest(encoded) <= max_length:
            return encoded
    return encode(row)


def _longest(encoded: Sequence[EncodedExample]) -> int:
    return max((len(each.token_ids) for each in encoded), default=0)


def _refusal(refused: Sequence[tuple[Row, int]], max_length: int, too_long: TooLong) -> str:
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
