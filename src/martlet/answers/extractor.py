"""What every extractor is, and how one is named on the command line."""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from martlet.answers.json_field import JsonFieldExtractor
from martlet.answers.letter import LetterExtractor, LettersExtractor
from martlet.answers.number import NumberExtractor
from martlet.answers.pattern import RegexExtractor
from martlet.errors import ParameterError


class Extractor(Protocol):
    """Reads the answer that a reply states, in the one form in which answers are compared."""

    def extract(self, text: str) -> str | None:
        """The last stated answer of a reply; None if it states none."""
        ...

    def canonical(self, answer: str) -> str:
        """A known answer, as a data file gives it, in the form that `extract` returns.

        Raises:
            ParameterError: If no reply could ever give that answer.
        """
        ...


ExtractorMaker = Callable[[Sequence[str]], Extractor]
"""Makes the extractor of one question from the texts of its options, which may be none."""

EXTRACTOR_FORMS = "letter, letters, number, json:FIELD or regex:PATTERN"


def parse_extractor(spec: str) -> ExtractorMaker:
    """Reads the name of an extractor.

    Args:
        spec: `letter`, `letters`, `number`, `json:FIELD` or `regex:PATTERN`.

    Raises:
        ParameterError: If the name is unknown, the field is empty, or the pattern is no regular
            expression.
    """
    match spec.split(":", 1):
        case ["letter"]:
            return LetterExtractor
        case ["letters"]:
            return LettersExtractor
        case ["number"]:
            return _same_for_all(NumberExtractor())
        case ["json", field] if field:
            return _same_for_all(JsonFieldExtractor(field))
        case ["regex", pattern] if pattern:
            return _same_for_all(RegexExtractor(_compiled(pattern)))
    raise ParameterError(f"unknown extractor {spec!r}; one of {EXTRACTOR_FORMS}")


def _same_for_all(extractor: Extractor) -> ExtractorMaker:
    def make(_options: Sequence[str]) -> Extractor:
        return extractor

    return make


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ParameterError(f"{pattern!r} is no regular expression: {error}") from None
