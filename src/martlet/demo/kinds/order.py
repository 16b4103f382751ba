"""Order puzzles: people stand in a row, and each fact names two neighbours.

The reasoning starts at the person whose place is given and walks along the row.
"""

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from martlet.demo.kinds.puzzle import Language, Puzzle, Question, ask, write_problem
from martlet.demo.kinds.wording import NAMES


@dataclass(frozen=True, kw_only=True)
class _Wording:
    opening: str
    place: str
    left: str
    right: str
    ask_place: str
    ask_left: str
    ask_right: str
    row: str
    step: str
    comma: str
    stop: str
    found: str
    moved: str


_WORDINGS: dict[Language, _Wording] = {
    "en": _Wording(
        opening="{count} people stand in a row, in places 1 to {count} from the left.",
        place="{a} is in place {place}.",
        left="{a} is just left of {b}.",
        right="{b} is just right of {a}.",
        ask_place="Who is in place {place}?",
        ask_left="Who is two places left of {a}?",
        ask_right="Who is two places right of {a}?",
        row="The row: ",
        step="{place} {name}",
        comma=", ",
        stop=".",
        found="In place {place} is {name}.",
        moved="So {a} is in place {start}, and in place {place} is {name}.",
    ),
    "zh": _Wording(
        opening="{count}人站成一排，从左到右是1到{count}号位。",
        place="{a}在{place}号位。",
        left="{a}紧挨在{b}左边。",
        right="{b}紧挨在{a}右边。",
        ask_place="谁在{place}号位？",
        ask_left="{a}左边第二个是谁？",
        ask_right="{a}右边第二个是谁？",
        row="排列：",
        step="{place}{name}",
        comma="，",
        stop="。",
        found="{place}号位是{name}。",
        moved="{a}在{start}号位，{place}号位是{name}。",
    ),
}


def make_order(random: Random, language: Language, *, size: int) -> Puzzle:
    """Draw an order puzzle of `size` + 1 people; `random` is advanced."""
    words = _WORDINGS[language]
    row = random.sample(NAMES[language], size + 1)
    anchor = random.choice((1, len(row)))
    facts = [words.place.format(a=row[anchor - 1], place=anchor)]
    for a, b in pairwise(row):
        facts.append(random.choice((words.left, words.right)).format(a=a, b=b))
    random.shuffle(facts)
    opening = words.opening.format(count=len(row))
    return Puzzle(
        problem=write_problem(language, [opening, *facts]),
        questions=_draw_questions(random, language, row, anchor=anchor),
        kind="order",
        language=language,
    )


def _draw_questions(
    random: Random, language: Language, row: list[str], *, anchor: int
) -> tuple[Question, ...]:
    words = _WORDINGS[language]
    known = _walk(words, row, anchor=anchor)
    # A question about the given place would need no reasoning.
    places = [place for place in range(1, len(row) + 1) if place != anchor]
    questions = []
    for place in random.sample(places, min(len(places), random.randint(2, 4))):
        name = row[place - 1]
        shift = random.choice((0, -2, 2))
        start = place - shift
        if shift == 0 or not 1 <= start <= len(row):
            sentence = words.ask_place.format(place=place)
            found = words.found.format(place=place, name=name)
        else:
            sentence = (words.ask_left if shift < 0 else words.ask_right).format(a=row[start - 1])
            found = words.moved.format(a=row[start - 1], start=start, place=place, name=name)
        questions.append(
            ask(
                random,
                language,
                question=sentence,
                answer=name,
                others=row,
                pool=NAMES[language],
                reasoning=f"{known}\n{found}",
            )
        )
    return tuple(questions)


def _walk(words: _Wording, row: list[str], *, anchor: int) -> str:
    places = range(1, len(row) + 1)
    walk = places if anchor == 1 else reversed(places)
    steps = [words.step.format(place=place, name=row[place - 1]) for place in walk]
    return words.row + words.comma.join(steps) + words.stop
