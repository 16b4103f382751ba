"""Link puzzles: people, houses, drinks and animals, tied together two at a time.

The reasoning names one end of a fact after the other, from what the question names to what it
asks for.
"""

from dataclasses import dataclass
from random import Random

from martlet.demo.kinds.puzzle import Language, Puzzle, Question, ask, write_problem
from martlet.demo.kinds.wording import DIRECTIONS, NAMES

# Each fact ties neighbours of this chain; the last is an animal or the way that the house faces.
_PATH = ("drink", "person", "colour")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The words and sentences of one language."""

    values: dict[str, tuple[str, ...]]
    facts: dict[str, str]
    """How a category is tied to its left neighbour on the path, by that category."""
    who: dict[str, str]
    asks: dict[str, str]
    chain: str
    comma: str
    stop: str


WORDINGS: dict[Language, Wording] = {
    "en": Wording(
        values={
            "person": NAMES["en"],
            "colour": ("red", "blue", "green", "white", "black", "yellow"),
            "drink": ("tea", "milk", "water", "juice", "coffee", "cocoa"),
            "animal": ("cat", "dog", "bird", "fish", "horse", "mouse"),
            "direction": DIRECTIONS["en"],
        },
        facts={
            "person": "{right} drinks {left}.",
            "colour": "{left} lives in the {right} house.",
            "animal": "The {right} lives in the {left} house.",
            "direction": "The {left} house faces {right}.",
        },
        who={
            "person": "{value}",
            "colour": "the person in the {value} house",
            "drink": "the person who drinks {value}",
            "animal": "the person with the {value}",
            "direction": "the person whose house faces {value}",
        },
        asks={
            "person": "Who is {who}?",
            "colour": "Which colour is the house of {who}?",
            "drink": "What is the drink of {who}?",
            "animal": "Which animal lives with {who}?",
            "direction": "Which way faces the house of {who}?",
        },
        chain="The chain: ",
        comma=", ",
        stop=".",
    ),
    "zh": Wording(
        values={
            "person": NAMES["zh"],
            "colour": ("红", "蓝", "绿", "白", "黑", "黄"),
            "drink": ("茶", "奶", "水", "汤", "酒", "醋"),
            "animal": ("猫", "狗", "鸟", "鱼", "马", "鼠"),
            "direction": DIRECTIONS["zh"],
        },
        facts={
            "person": "{right}喝{left}。",
            "colour": "{left}住{right}屋。",
            "animal": "{right}在{left}屋。",
            "direction": "{left}屋朝{right}。",
        },
        who={
            "person": "{value}",
            "colour": "住{value}屋的人",
            "drink": "喝{value}的人",
            "animal": "养{value}的人",
            "direction": "屋子朝{value}的人",
        },
        asks={
            "person": "{who}是谁？",
            "colour": "{who}的屋子是什么颜色？",
            "drink": "{who}喝什么？",
            "animal": "{who}养什么动物？",
            "direction": "{who}的屋子朝哪边？",
        },
        chain="线索：",
        comma="，",
        stop="。",
    ),
}


def make_links(random: Random, language: Language, *, size: int) -> Puzzle:
    """Draw a link puzzle of `size` households; `random` is advanced."""
    words = WORDINGS[language]
    path = (*_PATH, random.choice(("animal", "direction")))
    # Column k of the table is one household.
    table = {category: random.sample(words.values[category], size) for category in path}
    facts = [
        _fact(words, table, path, index=index, column=column)
        for index in range(1, len(path))
        for column in range(size)
    ]
    random.shuffle(facts)
    return Puzzle(
        problem=write_problem(language, facts),
        questions=_draw_questions(random, language, table, path),
        kind="links",
        language=language,
    )


def _fact(
    words: Wording,
    table: dict[str, list[str]],
    path: tuple[str, ...],
    *,
    index: int,
    column: int,
) -> str:
    left, right = path[index - 1], path[index]
    return words.facts[right].format(left=table[left][column], right=table[right][column])


def _draw_questions(
    random: Random, language: Language, table: dict[str, list[str]], path: tuple[str, ...]
) -> tuple[Question, ...]:
    words = WORDINGS[language]
    # Neighbours on the path are tied by one fact, so only farther pairs need reasoning.
    pairs = [
        (source, target, column)
        for source in range(len(path))
        for target in range(len(path))
        for column in range(len(table[path[0]]))
        if abs(source - target) > 1
    ]
    questions = []
    for source, target, column in random.sample(pairs, min(len(pairs), random.randint(2, 4))):
        step = 1 if source < target else -1
        chain = [table[path[index]][column] for index in range(source, target + step, step)]
        who = words.who[path[source]].format(value=table[path[source]][column])
        questions.append(
            ask(
                random,
                language,
                question=words.asks[path[target]].format(who=who),
                answer=table[path[target]][column],
                others=table[path[target]],
                pool=words.values[path[target]],
                reasoning=words.chain + words.comma.join(chain) + words.stop,
            )
        )
    return tuple(questions)
