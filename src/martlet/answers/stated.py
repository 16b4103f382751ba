"""How a reply states a choice so that it is read again as that choice."""

from collections.abc import Sequence
from string import ascii_uppercase

from martlet.errors import InputError

_IDEOGRAPHS = ("\u4e00", "\u9fff")


def state_choice(answer: str, options: Sequence[str], *, asked: str, reason: str = "") -> str:
    """A reply that ends with the letter of the right option, in the form that prompts ask for.

    Args:
        answer: Its letter, or the option's text.
        options: The first is A.
        asked: The prompt; if it is in Chinese, the reply is.
        reason: What is said before, if anything.

    Raises:
        InputError: If the answer is none of the options.
    """
    letter = _letter(answer.strip(), options)
    is_chinese = any(_IDEOGRAPHS[0] <= character <= _IDEOGRAPHS[1] for character in asked)
    last = f"答案是：{letter}" if is_chinese else f"The answer is {letter}"
    return f"{reason.rstrip()}\n{last}" if reason.strip() else last


def _letter(answer: str, options: Sequence[str]) -> str:
    letters = ascii_uppercase[: len(options)]
    if len(answer) == 1 and answer.upper() in letters:
        return answer.upper()
    for letter, option in zip(letters, options, strict=True):
        if option.strip() == answer:
            return letter
    raise InputError(f"the answer {answer!r} is none of the options, A to {letters[-1]}")
