"""Turn puzzles: people face one way and turn left or right a few times.

Their words are known from the other kinds; what a turn does is not.
"""

from dataclasses import dataclass
from random import Random

from martlet.demo.kinds.puzzle import Language, Puzzle, Question, ask, write_problem
from martlet.demo.kinds.wording import DIRECTIONS, NAMES

MAX_TURNS = 4


@dataclass(frozen=True, kw_only=True)
class _Wording:
    faces: str
    turns: str
    turn: dict[int, str]
    comma: str
    question: str
    start: str
    step: str
    stop: str


_WORDINGS: dict[Language, _Wording] = {
    "en": _Wording(
        faces="{name} faces {direction}.",
        turns="{name} turns {turns}.",
        turn={-1: "left", 1: "right"},
        comma=", ",
        question="Which way does {name} face now?",
        start="So {name} faces {direction}",
        step=", {turn} {direction}",
        stop=".",
    ),
    "zh": _Wording(
        faces="{name}朝{direction}。",
        turns="{name}转{turns}。",
        turn={-1: "左", 1: "右"},
        comma="，",
        question="{name}现在朝哪边？",
        start="{name}朝{direction}",
        step="，{turn}{direction}",
        stop="。",
    ),
}


def make_turns(random: Random, language: Language, *, size: int) -> Puzzle:
    """Draw a turn puzzle of `size` people at the most; `random` is advanced."""
    words = _WORDINGS[language]
    names = random.sample(NAMES[language], random.randint(min(2, size), size))
    name_to_walk = {name: (random.randrange(4), _draw_turns(random)) for name in names}
    sentences = []
    for name, (start, turns) in name_to_walk.items():
        direction = DIRECTIONS[language][start]
        said = words.comma.join(words.turn[turn] for turn in turns)
        sentences.append(words.faces.format(name=name, direction=direction))
        sentences.append(words.turns.format(name=name, turns=said))
    questions = [
        _question(random, language, name, start=start, turns=turns)
        for name, (start, turns) in name_to_walk.items()
    ]
    random.shuffle(questions)
    return Puzzle(
        problem=write_problem(language, sentences),
        questions=tuple(questions),
        kind="turns",
        language=language,
    )


def _draw_turns(random: Random) -> tuple[int, ...]:
    # The sum is drawn first and uniformly, so that no guess from the start beats chance.
    total = random.randrange(4)
    while True:
        turns = random.choices((-1, 1), k=random.randint(2, MAX_TURNS))
        if sum(turns) % 4 == total:
            return tuple(turns)


def _question(
    random: Random, language: Language, name: str, *, start: int, turns: tuple[int, ...]
) -> Question:
    words = _WORDINGS[language]
    directions = DIRECTIONS[language]
    facing = start
    reasoning = words.start.format(name=name, direction=directions[facing])
    for turn in turns:
        facing = (facing + turn) % 4
        reasoning += words.step.format(turn=words.turn[turn], direction=directions[facing])
    return ask(
        random,
        language,
        question=words.question.format(name=name),
        answer=directions[facing],
        others=directions,
        pool=directions,
        reasoning=reasoning + words.stop,
    )
