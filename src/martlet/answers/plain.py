"""A reply as plain text: without reasoning tags, markup and full-width forms.

Every extractor reads replies through here, so that `**Ｂ**`, `\\boxed{\\text{B}}` and `B` need not
be told apart twice. Text is only ever unwrapped: no word is added or reordered.
"""

import re

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN_FORMS = str.maketrans(
    _FULL_WIDTH
    | dict.fromkeys(map(ord, "\u3000\u00a0\u2009\u202f"), " ")
    | dict.fromkeys(map(ord, "“”„«»「」『』"), '"')
    | dict.fromkeys(map(ord, "‘’"), "'")
    | {ord("【"): "[", ord("】"): "]", ord("−"): "-", ord("\r"): None}
)

_SPECIAL_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>")
_LATEX_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|bf|rm|operatorname)\s*\{([^{}]*)\}"
)
_LATEX_DELIMITER = re.compile(r"\\[()\[\],;!]|\\(?:left|right|displaystyle|quad)(?![A-Za-z])|\$")
_BOLD = re.compile(r"(?<!\d)\*\*|\*\*(?!\d)|(?<!\w)__|__(?!\w)|`")
_ITALIC = re.compile(r"(?<!\w)\*(\S(?:[^*\n]*\S)?)\*(?!\w)")


def fold_width(text: str) -> str:
    """Turns full-width letters, digits and punctuation, and typographic quotes, into ASCII.

    Unlike Unicode's NFKC it keeps `²` and `①`, which are not 2 and 1.
    """
    return text.translate(_PLAIN_FORMS)


def final_words(text: str) -> str:
    """What follows the reasoning of a reply: all of it, if it has no `<think>` tags.

    Reasoning that was cut before its end leaves nothing: a thought is not an answer.
    """
    for tag in ("think", "thinking"):
        text = text.rpartition(f"</{tag}>")[2].partition(f"<{tag}>")[0]
    return text


def strip_markup(text: str) -> str:
    """Removes special tokens, LaTeX styles and delimiters, Markdown's bold, italics and code."""
    text = _SPECIAL_TOKEN.sub("", text)
    text = _LATEX_DELIMITER.sub("", _LATEX_STYLE.sub(r"\1", text))
    return _ITALIC.sub(r"\1", _BOLD.sub("", text))


def plain_reply(text: str) -> str:
    """The final words of a reply, folded to ASCII width and without markup."""
    return strip_markup(fold_width(final_words(text))).strip()
