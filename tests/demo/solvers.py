"""Solvers that share nothing with the generator: they read a problem's text and search.

Each knows the sentences of one kind in both languages and returns every answer that fits the facts;
a sound puzzle has exactly one.
"""

import re
from itertools import permutations

ORDINALS = {"last": -1, "second": 2, "最后": -1, "第二个": 2}
CLOCKWISE = [("north", "北"), ("east", "东"), ("south", "南"), ("west", "西")]


def solve(kind: str, problem: str, question: str) -> set[str]:
    """Every answer in words that the facts allow."""
    solvers = {
        "order": solve_order,
        "links": solve_links,
        "rules": solve_rules,
        "turns": solve_turns,
    }
    return solvers[kind](problem, question)


def solve_order(problem: str, question: str) -> set[str]:
    """Try every row of people and keep those that fit."""
    left_pairs = re.findall(r"(\w+) is just left of (\w+)\.", problem)
    left_pairs += [(a, b) for b, a in re.findall(r"(\w+) is just right of (\w+)\.", problem)]
    left_pairs += re.findall(r"(.)紧挨在(.)左边", problem)
    left_pairs += [(a, b) for b, a in re.findall(r"(.)紧挨在(.)右边", problem)]
    places = re.findall(r"(\w+) is in place (\d)", problem) + re.findall(r"(.)在(\d)号位", problem)
    people = {name for pair in left_pairs for name in pair}
    answers = set()
    for row in permutations(sorted(people)):
        fits = all(row.index(a) + 1 == row.index(b) for a, b in left_pairs)
        if fits and all(row[int(place) - 1] == name for name, place in places):
            answers.add(_read_row(row, question))
    return answers


def _read_row(row: tuple[str, ...], question: str) -> str:
    if match := re.search(r"in place (\d)|在(\d)号位", question):
        return row[int(match[1] or match[2]) - 1]
    match = re.search(r"two places (left|right) of (\w+)|(.)(左|右)边第二个", question)
    assert match is not None
    side, name = (match[1], match[2]) if match[1] else (match[4], match[3])
    shift = -2 if side in ("left", "左") else 2
    return row[row.index(name) + shift]


def solve_links(problem: str, question: str) -> set[str]:
    """Follow facts from the word that the question names to a word of the kind that it asks for."""
    patterns = [
        r"(\w+) drinks (\w+)\.",
        r"([A-Z]\w+) lives in the (\w+) house",
        r"The (\w+) lives in the (\w+) house",
        r"The (\w+) house faces (\w+)",
        r"(.)喝(.)。",
        r"(.)住(.)屋。",
        r"(.)在(.)屋。",
        r"(.)屋朝(.)。",
    ]
    ties = {frozenset(pair) for pattern in patterns for pair in re.findall(pattern, problem)}
    words = {word for tie in ties for word in tie}
    named = {word for word in words if re.search(_as_word(word), question)}
    assert len(named) == 1, (question, named)
    household = set(named)
    while grown := {w for tie in ties if tie & household for w in tie} - household:
        household |= grown
    return household - named


def _as_word(word: str) -> str:
    return rf"\b{word}\b" if word.isascii() else re.escape(word)


def solve_rules(problem: str, question: str) -> set[str]:
    """Apply the rules until none applies, or for two steps."""
    rules = dict(re.findall(r"Who has the (\w+) gets the (\w+)", problem))
    rules |= dict(re.findall(r"有(.)的人得(.)", problem))
    name_to_thing = dict(re.findall(r"([A-Z]\w+) has the (\w+)", problem))
    name_to_thing |= dict(re.findall(r"(.)有(.)。", problem))
    match = re.search(r"What does (\w+) get (\w+)\?|(.)(最后|第二个)得到什么", question)
    assert match is not None
    name, ordinal = (match[1], match[2]) if match[1] else (match[3], match[4])
    got = []
    thing = name_to_thing[name]
    while thing in rules:
        thing = rules[thing]
        got.append(thing)
    return {got[-1] if ORDINALS[ordinal] == -1 else got[1]}


def solve_turns(problem: str, question: str) -> set[str]:
    """Turn each person as told."""
    match = re.search(r"does (\w+) face|(.)现在朝哪边", question)
    assert match is not None
    name = match[1] or match[2]
    start = re.search(rf"{name} faces (\w+)|{name}朝(.)", problem)
    turns = re.search(rf"{name} turns ([\w, ]+)\.|{name}转([左右，]+)", problem)
    assert start is not None
    assert turns is not None
    facing = next(i for i, pair in enumerate(CLOCKWISE) if (start[1] or start[2]) in pair)
    for turn in re.findall(r"left|right|左|右", turns[1] or turns[2]):
        facing += 1 if turn in ("right", "右") else -1
    return set(CLOCKWISE[facing % 4])
