"""The languages of the page, and which of them somebody reads."""

from collections.abc import Mapping

from martlet.ui.words import en, zh

LANGUAGES = ("en", "zh")
_LANGUAGE_TO_WORDS: Mapping[str, Mapping[str, str]] = {"en": en.WORDS, "zh": zh.WORDS}
_LANGUAGE_TO_TAG: Mapping[str, str] = {"en": "en", "zh": "zh-CN"}


def words_of(language: str) -> Mapping[str, str]:
    """Everything that the page says in a language."""
    return _LANGUAGE_TO_WORDS[language]


def tag_of(language: str) -> str:
    """A language as browsers write it."""
    return _LANGUAGE_TO_TAG[language]


def other_than(language: str) -> str:
    """What the page can be switched to."""
    return next(each for each in LANGUAGES if each != language)


def language_of(accepted: str) -> str:
    """The first of a browser's languages that the page speaks, else English.

    Args:
        accepted: The header `Accept-Language`; browsers write the best one first.
    """
    for part in accepted.lower().split(","):
        if (language := part.strip()[:2]) in LANGUAGES:
            return language
    return LANGUAGES[0]
