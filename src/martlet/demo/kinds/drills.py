"""Drills: lists to say again and pairs to look up, what training begins with.

They carry no facts and are no puzzles. Most words of a drill's reply must be found in its text, so
a few hundred batches teach a model to look words up.
"""

from random import Random

from martlet.demo.kinds.links import WORDINGS as LINK_WORDINGS
from martlet.demo.kinds.puzzle import LETTERS, Language
from martlet.demo.kinds.rules import WORDINGS as RULE_WORDINGS

MAX_LIST_WORDS = 24
MAX_PAIRS = 10

_SPACES: dict[Language, str] = {"en": " ", "zh": ""}
_STOPS: dict[Language, str] = {"en": ". ", "zh": "。"}


def draw_drill(random: Random, language: Language) -> tuple[str, str]:
    """A text and the reply to it: one third lists, two thirds pairs; `random` is advanced."""
    return random.choice((draw_list, draw_pairs, draw_pairs))(random, language)


def draw_list(random: Random, language: Language) -> tuple[str, str]:
    """A list of words; the reply says it again."""
    chosen = random.sample(_words(language), random.randint(8, MAX_LIST_WORDS))
    text = _SPACES[language].join(chosen)
    return text, text


def draw_pairs(random: Random, language: Language) -> tuple[str, str]:
    """Pairs of words, or of option letters and words; the reply looks up each one's partner."""
    if random.random() < 0.4:
        pairs = list(zip(LETTERS, random.sample(_words(language), len(LETTERS)), strict=True))
        text = "\n".join(f"{letter}. {word}" for letter, word in pairs)
    else:
        chosen = iter(random.sample(_words(language), 2 * random.randint(2, MAX_PAIRS)))
        pairs = list(zip(chosen, chosen, strict=True))
        text = _STOPS[language].join(_SPACES[language].join(pair) for pair in pairs)
    random.shuffle(pairs)
    turned = [pair if random.random() < 0.5 else pair[::-1] for pair in pairs]
    return text, "\n".join(f" {first} {second}" for first, second in turned)


def _words(language: Language) -> list[str]:
    linked = LINK_WORDINGS[language].values.values()
    return sorted({word for words in linked for word in words} | {*RULE_WORDINGS[language].things})
