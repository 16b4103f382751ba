"""One error for all rows of a file that cannot be asked, raised before anything is computed."""

from collections.abc import Iterable

from martlet.batch.questions import UnusableQuestion
from martlet.errors import InputError

_MAX_NUM_SHOWN = 5


def refuse_unusable(path: str, unusable: Iterable[UnusableQuestion]) -> None:
    """Refuses a run for the rows that its options do not allow it to pass over.

    Raises:
        InputError: If there is such a row; the message gives the count, the first ones with number
            and reason, and the ways out.
    """
    refused = [question for question in unusable if not question.is_allowed]
    if not refused:
        return
    faults = "; ".join(
        f"{question.place}: {question.reason}" for question in refused[:_MAX_NUM_SHOWN]
    )
    num_hidden = len(refused) - _MAX_NUM_SHOWN
    rest = f"; and {num_hidden} more" if num_hidden > 0 else ""
    count = (
        f"{len(refused)} questions cannot be asked"
        if len(refused) > 1
        else "one question cannot be asked"
    )
    remedies = {question.remedy: None for question in refused if question.remedy is not None}
    ways_out = "; ".join(["--skip-bad-rows gives each an error of its own and goes on", *remedies])
    raise InputError(f"{path}: {count}: {faults}{rest}. Nothing was computed. {ways_out}")
