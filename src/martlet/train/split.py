"""Validation rows taken out of the training rows, so that none of them was learned."""

import hashlib
import re
from collections.abc import Sequence

from martlet.errors import InputError
from martlet.train.example import Completion, Example


def split_off(
    examples: Sequence[Example], share: float
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Splits by what is asked: examples of one row, or with the same prompt, stay together.

    Which ones go is decided by a hash of the prompt, so a row that is added moves no other.

    Args:
        share: Of the examples, above 0 and below 1.

    Returns:
        Training and validation examples, each in their order.

    Raises:
        InputError: If one of the two would be empty.
    """
    groups = _groups(examples)
    wanted = max(1, round(share * len(examples)))
    taken: set[int] = set()
    for group in sorted(groups, key=lambda places: _rank(examples[places[0]])):
        if len(taken) >= wanted:
            break
        taken.update(group)
    if len(taken) == len(examples):
        raise InputError(
            f"{len(examples)} rows that belong together cannot be split; give a file of its own "
            "with --validation"
        )
    training = tuple(each for i, each in enumerate(examples) if i not in taken)
    return training, tuple(examples[i] for i in sorted(taken))


def overlap(training: Sequence[Example], validation: Sequence[Example]) -> list[Example]:
    """Validation examples whose prompt is also learned."""
    learned = {asked(each) for each in training}
    return [each for each in validation if asked(each) in learned]


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Places of the examples that share a row or a prompt, directly or through others."""
    parents = list(range(len(examples)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    first_with: dict[tuple[str, ...], int] = {}
    for place, each in enumerate(examples):
        for key in (("row", str(each.origin)), ("asked", asked(each))):
            parents[root(place)] = root(first_with.setdefault(key, place))
    groups: dict[int, list[int]] = {}
    for place in range(len(examples)):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def asked(example: Example) -> str:
    """What an example asks first, without differences of spacing and case."""
    if isinstance(example, Completion):
        text = example.prompt
    else:
        contents = (each.get("content") for each in example.messages if each["role"] == "user")
        text = str(next(contents, ""))
    return re.sub(r"\s+", " ", text).strip().casefold()


def _rank(example: Example) -> bytes:
    return hashlib.sha256(asked(example).encode()).digest()
