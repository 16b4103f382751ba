"""Words after a letter that make it the answer: "C is the correct answer", "so B is correct".

Knows words only, as `cues` does for those that stand before an answer.
"""

import re
from collections.abc import Iterator

from martlet.answers.cues import is_denied

_LETTER = r"(?<![A-Za-z0-9'.])(?P<{name}>[A-Z])(?![A-Za-z0-9'])[)\"']*\s*(?:选项|项)?\s*"

_VERDICT = re.compile(
    _LETTER.format(name="letter") + r"(?:"
    r"(?:就|才)?是(?:(?:最终|最佳|正确|唯一|合理|合适)的?)*(?:答案|选项|选择)"
    r"|(?:is|as)\s+(?:(?:therefore|thus|clearly)\s+)?(?:the|my)\s+"
    r"(?:(?:single|only|correct|right|best|final|most\s+\w+)\s+)*(?:answer|choice|option)\b)"
)
# "A or B is the correct answer" names no option.
_SHARED = re.compile(r"(?:\b(?:or|and|nor)\s+|[和或与及、/,&]\s*)(?:option\s*)?[\"'(]*\Z")
_CONTEXT_SIZE = 24

_CORRECT = (
    r"(?:(?:is|must be)\s+(?:the\s+)?(?:correct|right|best|true)\b"
    r"|是?(?:正确|对的|最佳|最合适|符合))"
)
_HENCE = r"(?:\b(?i:therefore|thus|hence|so|consequently|overall)\b|因此|所以|综上所?述?|故|可见)"
_FOUND = (
    r"\b(?i:(?:it|this|that)(?:'s|\s+is|\s+must\s+be)|corresponds?\s+to|matches|which\s+is)"
    r"(?:\s+(?i:option|choice|answer))?"
)
_FIRST_OR_LAST_LINE = r"(?:\A|\n(?=[^\n]*\Z))\W*(?:(?i:option)\s*|选项\s*)?"
_CONCLUSIONS = (
    re.compile(
        rf"(?:{_HENCE}[^.。\n]{{0,60}}?|只有\s*(?:选项)?\s*)"
        + _LETTER.format(name="letter")
        + _CORRECT
    ),
    re.compile(
        _FIRST_OR_LAST_LINE
        + _LETTER.format(name="letter")
        + _CORRECT
        + r"(?=\s*(?:[.。!\n]|\Z|,?\s*(?:because|since|as|因为)))"
    ),
    re.compile(
        rf"(?:{_HENCE}[,:]?\s*(?:{_FOUND}|[是为]?\s*(?:选项)?|(?i:option|choice))|{_FOUND})\s*[(\"']*"
        + _LETTER.format(name="letter")
        + r"[.。!]?\s*(?:\n|\Z)"
    ),
)


def find_verdicts(text: str) -> Iterator[tuple[int, str]]:
    """Yields the letters that are called the answer, each with its position.

    Args:
        text: A plain reply.
    """
    for match in _VERDICT.finditer(text):
        before = text[max(0, match.start() - _CONTEXT_SIZE) : match.start()]
        if not _SHARED.search(before) and not is_denied(text, match.start()):
            yield match.start(), match["letter"]


def find_conclusions(text: str) -> set[str]:
    """The letters that sentences such as "therefore option B is correct" conclude with.

    Reasoning holds such sentences about every option, so they say something only if they agree.

    Args:
        text: A plain reply.
    """
    return {
        match["letter"]
        for conclusion in _CONCLUSIONS
        for match in conclusion.finditer(text)
        if not is_denied(text, match.start("letter"))
    }
