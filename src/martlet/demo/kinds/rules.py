"""Rule puzzles: who has one thing gets another, and so on until no rule applies.

The reasoning applies one rule after the other to what a person has.
"""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from martlet.demo.kinds.puzzle import Language, Puzzle, Question, ask, write_problem
from martlet.demo.kinds.wording import NAMES

_SIZE_TO_CHAIN_LENGTHS = {1: (3,), 2: (3, 3), 3: (3, 3, 3), 4: (4, 4, 3)}
"""Things on each chain of rules."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The words and sentences of one language."""

    things: tuple[str, ...]
    fact: str
    rule: str
    ask_last: str
    ask_second: str
    has: str
    gets: str
    ends: str
    stop: str


WORDINGS: dict[Language, Wording] = {
    "en": Wording(
        things=(
            "lamp",
            "book",
            "pen",
            "fan",
            "rose",
            "ball",
            "drum",
            "key",
            "bowl",
            "clock",
            "coin",
            "ring",
        ),
        fact="{name} has the {thing}.",
        rule="Who has the {a} gets the {b}.",
        ask_last="What does {name} get last?",
        ask_second="What does {name} get second?",
        has="So {name} has the {thing}",
        gets=", gets the {thing}",
        ends=", gets nothing more",
        stop=".",
    ),
    "zh": Wording(
        things=("灯", "书", "笔", "伞", "花", "球", "鼓", "刀", "碗", "钟", "币", "琴"),
        fact="{name}有{thing}。",
        rule="有{a}的人得{b}。",
        ask_last="{name}最后得到什么？",
        ask_second="{name}第二个得到什么？",
        has="{name}有{thing}",
        gets="，得{thing}",
        ends="，不再得",
        stop="。",
    ),
}


def make_rules(random: Random, language: Language, *, size: int) -> Puzzle:
    """Draw a rule puzzle with more and longer chains for a larger `size`; `random` is advanced."""
    words = WORDINGS[language]
    chains = _draw_chains(random, words.things, lengths=_SIZE_TO_CHAIN_LENGTHS[size])
    names = random.sample(NAMES[language], len(chains))
    # Two rules at least are left to apply from where a person starts.
    name_to_chain = {
        name: chain[random.randint(0, len(chain) - 3) :]
        for name, chain in zip(names, chains, strict=True)
    }
    facts = [words.fact.format(name=name, thing=chain[0]) for name, chain in name_to_chain.items()]
    rules = [words.rule.format(a=a, b=b) for chain in chains for a, b in pairwise(chain)]
    sentences = facts + rules
    random.shuffle(sentences)
    return Puzzle(
        problem=write_problem(language, sentences),
        questions=_draw_questions(random, language, name_to_chain),
        kind="rules",
        language=language,
    )


def _draw_chains(
    random: Random, things: tuple[str, ...], *, lengths: tuple[int, ...]
) -> list[list[str]]:
    drawn = iter(random.sample(things, sum(lengths)))
    chains = [[next(drawn) for _ in range(length)] for length in lengths]
    random.shuffle(chains)
    return chains


def _draw_questions(
    random: Random, language: Language, name_to_chain: dict[str, list[str]]
) -> tuple[Question, ...]:
    words = WORDINGS[language]
    things = [thing for chain in name_to_chain.values() for thing in chain]
    asked = [(name, is_last) for name in name_to_chain for is_last in (True, False)]
    questions = []
    for name, is_last in random.sample(asked, min(len(asked), random.randint(2, 4))):
        chain = name_to_chain[name] if is_last else name_to_chain[name][:3]
        sentence = words.ask_last if is_last else words.ask_second
        reasoning = words.has.format(name=name, thing=chain[0])
        reasoning += "".join(words.gets.format(thing=thing) for thing in chain[1:])
        reasoning += (words.ends if is_last else "") + words.stop
        questions.append(
            ask(
                random,
                language,
                question=sentence.format(name=name),
                answer=chain[-1],
                others=things,
                pool=words.things,
                reasoning=reasoning,
            )
        )
    return tuple(questions)
