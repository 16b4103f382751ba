"""The page says the same in every language."""

import re
from string import Formatter

import pytest

pytest.importorskip("gradio")

from martlet.ui.languages import LANGUAGES, language_of, words_of


def placeholders(text: str) -> list[str]:
    return sorted(f"{name}" for _, name, _, _ in Formatter().parse(text) if name is not None)


def test_every_language_has_every_word_with_the_same_gaps() -> None:
    first, *others = map(words_of, LANGUAGES)
    for words in others:
        assert list(words) == list(first)
        for name in first:
            assert placeholders(words[name]) == placeholders(first[name]), name


def test_the_chinese_page_speaks_chinese() -> None:
    same = {"Top-p", "Min-p"}
    for name, text in words_of("zh").items():
        is_foreign = name in ("language", "language_other") or text in same
        assert is_foreign or re.search("[\u4e00-\u9fff]", text), name


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-TW,en;q=0.8", "zh"), ("fr,zh;q=0.5", "zh"), ("de", "en"), ("", "en"), ("en-GB", "en")],
)
def test_a_browser_is_met_in_its_language(accepted: str, language: str) -> None:
    assert language_of(accepted) == language
