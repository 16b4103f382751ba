"""The words that several kinds of puzzle share, in both languages.

Chinese words are single characters where a plain one exists, so that a small tokenizer gives each
of them one token, as it does for the English words.
"""

from martlet.demo.kinds.puzzle import Language

NAMES: dict[Language, tuple[str, ...]] = {
    "en": ("Anna", "Ben", "Cara", "Dan", "Emma", "Finn", "Gina", "Hugo"),
    "zh": ("甲", "乙", "丙", "丁", "戊", "己", "庚", "辛"),
}

DIRECTIONS: dict[Language, tuple[str, ...]] = {
    "en": ("north", "east", "south", "west"),
    "zh": ("北", "东", "南", "西"),
}
"""Clockwise."""
