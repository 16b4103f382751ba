"""The extractor for numbers: `1,234.50`, `-3`, `$18`, `18%`, `3/4`, `1.2万`."""

import re
from collections.abc import Iterator
from fractions import Fraction

from martlet.answers.cues import ANSWER_CUE, find_cues
from martlet.answers.plain import plain_reply
from martlet.errors import ParameterError

_SCALES = {
    "千": 10**3,
    "thousand": 10**3,
    "万": 10**4,
    "million": 10**6,
    "亿": 10**8,
    "billion": 10**9,
}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?"
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,^×·])(?<!\d[-~–:/])(?<!\d [-~–:/] )(?P<sign>[-+]?)[$¥€£₹]?\s?"
    rf"(?:\\[dt]?frac\s*\{{(?P<top>-?{_DIGITS})\}}\s*\{{(?P<bottom>{_DIGITS})\}}"
    rf"|(?:(?P<whole>\d{{1,20}})[ ]+(?=\d{{1,20}}/\d))?(?P<digits>{_DIGITS}|\.\d{{1,40}})"
    rf"(?:\s?/\s?(?P<divisor>{_DIGITS}))?)"
    rf"\s?(?P<scale>{'|'.join(_SCALES)})?"
    # A factor, a power, a range or a time of day would make it another number.
    r"(?!\s*(?:[\^×·*]|\\times|\\cdot)|\s?[:~–-]\s?\d|\.?\d|[eE][-+]?\d)"
)
_GSM_MARK = re.compile(r"(?m:^)\s*####")
_APPROACH = re.compile(
    r"[\s:\"'(\[{]*"
    r"(?:(?:the|a|an|total of|approximately|about|around|exactly|only|\\approx|大?约|共)[\s:]*)*"
    r"(?:[A-Za-z](?:_\w)?\s*)?[≈=\s(\[{]*",
    re.IGNORECASE,
)
_MAX_CLAUSE_LENGTH = 400
_CLAUSE = re.compile(rf"[^\n;。]{{0,{_MAX_CLAUSE_LENGTH}}}?(?=\n|;|。|\.(?!\d)|\Z)")


class NumberExtractor:
    """Reads the number that a reply states, as a decimal, or as `p/q` where no decimal is exact.

    Currency and percent signs and units are dropped, as the reference answers of GSM8K have
    none: `$18`, `18.0`, `18 dollars` and `18%` are one answer. The last of `#### 18`,
    `\\boxed{18}` and "the answer is 18" counts; where nothing is stated so, a last line counts
    that ends with `= 18` or holds exactly one number.
    """

    def extract(self, text: str) -> str | None:
        """The last stated number; None if there is none or the last line names several."""
        plain = plain_reply(text)
        marks = [mark.end() for mark in _GSM_MARK.finditer(plain)]
        for position in sorted([*find_cues(ANSWER_CUE, plain), *marks], reverse=True):
            number = _stated_at(plain, position)
            if number is not None:
                return number
        return _only_number(plain.rpartition("\n")[2])

    def canonical(self, answer: str) -> str:
        """The number of a reference answer: the number itself, or a solution that states it.

        Raises:
            ParameterError: If there is no number in it.
        """
        number = self.extract(answer)
        if number is None:
            raise ParameterError(f"the answer {answer!r} is not a number")
        return number


def _stated_at(text: str, position: int) -> str | None:
    """The number right after a cue, or the one its equation ends with."""
    position += len(text[position:]) - len(text[position:].lstrip())
    clause = _CLAUSE.match(text, position)
    end = clause.end() if clause else position + _MAX_CLAUSE_LENGTH
    equals = max(text.rfind("=", position, end), text.rfind("≈", position, end))
    start = equals + 1 if equals >= 0 else position
    approach = _APPROACH.match(text, start, end)
    match = _NUMBER.match(text, approach.end() if approach else start)
    return _written(match) if match else None


def _only_number(line: str) -> str | None:
    """The number of a line that ends with `= 18` or holds one number only."""
    for part in (line.rpartition("=")[2], line):
        numbers = list(_numbers(part))
        if len(numbers) == 1:
            return numbers[0]
    return None


def _numbers(line: str) -> Iterator[str]:
    for match in _NUMBER.finditer(line):
        number = _written(match)
        if number is not None:
            yield number


def _written(match: re.Match[str]) -> str | None:
    """A matched number in the one form of its value; None for a division by zero."""
    top = _fraction(match["top"] or match["digits"])
    bottom = _fraction(match["bottom"] or match["divisor"] or "1")
    if bottom == 0:
        return None
    value = (_fraction(match["whole"] or "0") + top / bottom) * _SCALES.get(match["scale"], 1)
    return _decimal(-value if match["sign"] == "-" else value)


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _decimal(value: Fraction) -> str:
    """Writes a value as a decimal if that is exact and short, else as a reduced fraction."""
    for num_places in range(41):
        scaled = value * 10**num_places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(num_places + 1, "0")
            split = len(digits) - num_places
            text = digits[:split] + ("." + digits[split:] if num_places else "")
            return f"-{text}" if value < 0 else text
    return f"{value.numerator}/{value.denominator}"
