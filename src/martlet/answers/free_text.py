"""The form in which free answers are compared: a field of JSON, or what a pattern caught."""

import re

from martlet.answers.plain import fold_width, strip_markup

_OPTION_LETTER = re.compile(r"\(?([A-Za-z])[).:]*")


def canonical_text(text: str) -> str:
    """An answer without full-width forms, markup, needless blanks, quotes or a final full stop.

    A single letter is written as a capital. Other words keep their case; the vote and the score
    compare them without regard to it.
    """
    words = " ".join(strip_markup(fold_width(text)).split()).rstrip(" \"'。.").lstrip(" \"'")
    letter = _OPTION_LETTER.fullmatch(words)
    return letter.group(1).upper() if letter else words
