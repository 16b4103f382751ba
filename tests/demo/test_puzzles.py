"""The generator: the same for the same seed, sound, fair, and as embedded."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from demo.solvers import solve
from martlet.demo import held_out_path, puzzles_path
from martlet.demo.curriculum import training_puzzles
from martlet.demo.kinds.puzzle import FULL_SIZE, LETTERS, Puzzle
from martlet.demo.puzzles import Family, puzzle_lines, stream_puzzles, unseen_puzzles

FAMILIES: tuple[Family, ...] = ("deduction", "turning")


def some_puzzles(family: Family, *, seed: int = 5, count: int = 300) -> list[Puzzle]:
    sizes = range(1, FULL_SIZE + 1)
    return list(islice(stream_puzzles(family, seed=seed, sizes=sizes), count))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_decides_every_puzzle(family: Family) -> None:
    assert some_puzzles(family) == some_puzzles(family)
    assert some_puzzles(family) != some_puzzles(family, seed=6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_solver_that_only_reads_the_text_finds_the_same_answer(family: Family) -> None:
    for puzzle in some_puzzles(family):
        for question in puzzle.questions:
            found = solve(puzzle.kind, puzzle.problem, question.question) & {*question.options}
            right = question.options[LETTERS.index(question.answer)]
            assert found == {right}, (puzzle.problem, question)


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_are_well_formed(family: Family) -> None:
    for puzzle in unseen_puzzles(family, count=300):
        texts = [question.question for question in puzzle.questions]
        assert 2 <= len(texts) <= 4
        assert len(set(texts)) == len(texts)
        for question in puzzle.questions:
            assert len(set(question.options)) == 4
            last_line = question.reply.splitlines()[-1]
            assert last_line in (
                f"The answer is {question.answer}",
                f"答案是：{question.answer}",
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_letter_and_no_language_is_favoured(family: Family) -> None:
    puzzles = unseen_puzzles(family, count=600)
    letters = Counter(question.answer for puzzle in puzzles for question in puzzle.questions)
    assert all(0.2 < letters[letter] / letters.total() < 0.3 for letter in LETTERS)
    languages = Counter(puzzle.language for puzzle in puzzles)
    assert all(0.4 < languages[language] / len(puzzles) < 0.6 for language in ("en", "zh"))


def test_turning_cannot_be_guessed_from_where_a_person_starts() -> None:
    changes = Counter(
        question.reply.split("faces ")[1].split(",")[0].rstrip(".")
        == question.options[LETTERS.index(question.answer)]
        for puzzle in unseen_puzzles("turning", count=600)
        if puzzle.language == "en"
        for question in puzzle.questions
    )
    assert 0.2 < changes[True] / changes.total() < 0.3


def test_training_meets_no_unseen_problem() -> None:
    unseen = {puzzle.problem for puzzle in unseen_puzzles()}
    assert len(unseen) == 600
    met = {puzzle.problem for puzzle in islice(training_puzzles(seed=1), 3000)}
    assert not met & unseen


@pytest.mark.parametrize(
    ("path", "family", "prefix"),
    [(puzzles_path(), "deduction", "demo"), (held_out_path(), "turning", "turn")],
)
def test_embedded_files_are_what_the_generator_writes(
    path: Path, family: Family, prefix: str
) -> None:
    assert path.read_text("utf-8") == puzzle_lines(family, prefix=prefix)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 60
    assert all({*row} == {"id", "problem", "questions", "kind"} for row in rows)
