"""The extractor for a field of the JSON object that a reply ends with."""

import json
from collections.abc import Iterator

from martlet.answers.free_text import canonical_text
from martlet.answers.plain import final_words

_DECODER = json.JSONDecoder()


class JsonFieldExtractor:
    """Reads a field of the last JSON object that has it, inside a code fence or not.

    Args:
        field: The name of the field; an object inside another one is not looked into.
    """

    def __init__(self, field: str) -> None:
        self._field = field

    def extract(self, text: str) -> str | None:
        """The field's value as text; None if no object has it, or it is null or empty."""
        values = [each[self._field] for each in _objects(final_words(text)) if self._field in each]
        return _written(values[-1]) or None if values else None

    def canonical(self, answer: str) -> str:
        """The answer without needless blanks, quotes and full-width forms."""
        return canonical_text(answer)


def _objects(text: str) -> Iterator[dict[str, object]]:
    """The JSON objects in a text that lie in no other object."""
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield value
        start = text.find("{", end)


def _written(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return canonical_text(value)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return json.dumps(value, ensure_ascii=False, sort_keys=True)
