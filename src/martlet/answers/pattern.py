"""The extractor for a regular expression of the user's own."""

import re

from martlet.answers.free_text import canonical_text


class RegexExtractor:
    """Reads what a pattern catches where it matches last.

    Args:
        pattern: Searched in the reply as it is; its first group is the answer, or all of the
            match if it has no group.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._group = 1 if pattern.groups else 0

    def extract(self, text: str) -> str | None:
        """The answer of the last match; None without a match, or if it caught nothing."""
        caught = [match.group(self._group) for match in self._pattern.finditer(text)]
        return canonical_text(caught[-1] or "") or None if caught else None

    def canonical(self, answer: str) -> str:
        """The answer without needless blanks, quotes and full-width forms."""
        return canonical_text(answer)
