"""Where a reply states its answer: the phrases of English and Chinese that an answer follows.

Knows words only; what the answer looks like is the extractors' business. A cue that is denied,
condemned or only supposed ("not the answer", "错误答案是", "if the answer is") is no cue.
"""

import re
from collections.abc import Iterator

_ADVERB = (
    r"(?:therefore|thus|hence|then|so|clearly|definitely|certainly|indeed|simply|actually|still"
    r"|likely|most likely|probably|approximately|about|exactly|just|now)"
)
_LINK = (
    rf"(?:\s+(?:is|was|are|(?:should|would|must|will|has to) be)(?:\s+{_ADVERB},?)?\s*[:=]?"
    r"|\s*[\"'\])]?\s*(?:[:=→]|-+>|=>)|\s+[-–—]\s)"
)
_ABOUT = r"(?:\s+(?:to|for|of|in|here|among)\b[^.:;,\n]{0,60}?)?"
_ENGLISH = (
    rf"\b(?:answers?(?:\s+(?:choice|option|letter))?|ans\b\.?|the\s+(?:choice|letter)){_ABOUT}{_LINK}",
    r"\b(?:correct|right|best|final|appropriate)\s+(?:(?:multiple|single)[- ]choice\s+)?"
    r"(?:options?|choices?|letters?|responses?|statements?|solution|translation|conclusion|one)"
    rf"{_ABOUT}{_LINK}",
)

_CHINESE_ADVERB = (
    r"(?:应该|应当|应|就|只能|必须|必然|显然|最终|最有可能|大约|约|仍然|仍|还|也|都|分别|便|即)"
)
_CHINESE_VERB = rf"{_CHINESE_ADVERB}?(?:是|为|选择|选)\s*:?"
_CHINESE_LINK = rf"(?:{_CHINESE_VERB}|\s*[\"\])]*\s*[:=→]|\s*\])"
_CHINESE = (
    rf"答案(?:选项)?(?:{_CHINESE_LINK}{_CHINESE_ADVERB}?|\s+|(?=[\"(]?[A-Z]))",
    r"(?m:^)\s*答\s*:",
    r"(?:正确|最佳|最终|合适|恰当|合理)的?(?:选项|选择|说法|结论|一项)" + _CHINESE_LINK,
    r"(?:正确|符合(?:题意|条件|要求|题目要求|题干要求))的" + _CHINESE_VERB,
)

_MARKUP = (r"\\f?boxed\s*\{", r"<answer>")

_CHOOSING = (
    r"\b(?:I|we)(?:\s*'(?:d|ll)|\s+(?:would|will|must|should|can|have to))?(?:\s+therefore)?"
    r"\s+(?:choose|pick|select|go with|opt for|answer(?:\s+with)?)\b\s*:?",
    r"\bI(?:'m|\s+am)\s+going\s+with\b",
    r"\bI\s+(?:think|believe)(?:\s+that)?\s+(?:it|this)(?:\s+is|'s)\b",
    r"(?:应该|应当|应|故|因此|所以|只能|必须|[本此]题|综上|最终|我们?[会将]?|(?m:^)|[,。;:!、\s])"
    r"选(?:择|取)?(?:是|为)?\s*:?",
)

ANSWER_CUE = re.compile("|".join((*_MARKUP, *_ENGLISH, *_CHINESE)), re.IGNORECASE)
"""Phrases after which an answer of any form is stated."""

CHOICE_CUE = re.compile("|".join((*_MARKUP, *_ENGLISH, *_CHINESE, *_CHOOSING)), re.IGNORECASE)
"""The same, and phrases of choosing, after which only an option can follow."""

# Only blanks may stand between: in "No: the answer is C" and "不，答案是C" nothing is denied.
_DENIED = re.compile(
    r"(?:\bnot(?:\s+(?:think|believe|say|mean))?|\b(?:never|nor|neither|cannot|without|wrong|incorrect|false|if|suppose|supposing"
    r"|assume|assuming|whether|unless)|n't(?:\s+\w+)?|不|非|未|勿|(?<![分特])别|没有?|错误的?"
    r"|不(?:正确|对)的?|如果|假如|假设|假定|若|即使|是否)"
    r"[ \"'(]*(?:(?:that|the|my|our|an?|I|we|you|option|choice|选项|我们?|你们?|该|此|这个?"
    r"|本题的?)[ \"'(]*)?(?:(?:correct|right|best|final|正确的?|最终的?)[ ]*)?$",
    re.IGNORECASE,
)
_CONTEXT_SIZE = 48


def is_denied(text: str, position: int) -> bool:
    """Whether the words before `position` deny, condemn or merely suppose what follows it."""
    return _DENIED.search(text[max(0, position - _CONTEXT_SIZE) : position]) is not None


def find_cues(cue: re.Pattern[str], text: str) -> Iterator[int]:
    """Yields the positions at which an answer may be stated, in the order of the text.

    Args:
        cue: `ANSWER_CUE` or `CHOICE_CUE`.
        text: A plain reply.
    """
    for match in cue.finditer(text):
        if not is_denied(text, match.start()):
            yield match.end()
