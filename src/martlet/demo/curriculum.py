"""In which order training meets what: lists, then pairs, then the puzzles themselves.

Straight from the puzzles, a model this small still guesses after 700 steps; after two minutes of
drills it looks words up, and the puzzles only have to teach which ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

from transformers import PreTrainedTokenizerFast

from martlet.demo.kinds.drills import draw_drill, draw_list
from martlet.demo.kinds.puzzle import FULL_SIZE, Puzzle
from martlet.demo.lessons import Batch, Lesson, collate, make_drill_lesson, make_lesson
from martlet.demo.puzzles import stream_puzzles, unseen_puzzles

NUM_BATCHES_SORTED = 16
"""How many batches are drawn at a time and sorted by length, to pad little."""


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """How much of everything, and how it is drawn."""

    seed: int = 1
    """The unseen split has another."""
    num_list_batches: int = 150
    num_drill_batches: int = 300
    num_puzzle_batches: int = 4000
    drill_share: float = 0.15
    """How often a drill stands in for puzzles later on, so that nothing is unlearned."""
    hasty_share: float = 0.35
    """How many replies come without their reasoning.

    The model learns to be hasty at times, and then answers from the look of things: one sample
    fails now and then, and a vote has something to repair.
    """
    drills_a_batch: int = 32
    puzzles_a_batch: int = 8
    """Each brings one to four questions."""

    @property
    def num_batches(self) -> int:
        """All of them."""
        return self.num_list_batches + self.num_drill_batches + self.num_puzzle_batches


def stream_batches(tokenizer: PreTrainedTokenizerFast, curriculum: Curriculum) -> Iterator[Batch]:
    """Yield every batch of the run in order."""
    random = Random(curriculum.seed)
    puzzle_groups = _group_lessons(tokenizer, curriculum, random)
    for step in range(curriculum.num_batches):
        only_lists = step < curriculum.num_list_batches
        is_early = step < curriculum.num_list_batches + curriculum.num_drill_batches
        if is_early or random.random() < curriculum.drill_share:
            lessons = _draw_drills(tokenizer, curriculum, random, only_lists=only_lists)
        else:
            lessons = next(puzzle_groups)
        yield collate(lessons, pad_id=tokenizer.pad_token_id)


def training_puzzles(*, seed: int) -> Iterator[Puzzle]:
    """The training family in all sizes without end, less every problem of the unseen split."""
    unseen = {puzzle.problem for puzzle in unseen_puzzles()}
    for puzzle in stream_puzzles("deduction", seed=seed, sizes=range(1, FULL_SIZE + 1)):
        if puzzle.problem not in unseen:
            yield puzzle


def _draw_drills(
    tokenizer: PreTrainedTokenizerFast,
    curriculum: Curriculum,
    random: Random,
    *,
    only_lists: bool,
) -> list[Lesson]:
    draw = draw_list if only_lists else draw_drill
    return [
        make_drill_lesson(tokenizer, draw(random, random.choice(("en", "zh"))))
        for _ in range(curriculum.drills_a_batch)
    ]


def _group_lessons(
    tokenizer: PreTrainedTokenizerFast, curriculum: Curriculum, random: Random
) -> Iterator[list[Lesson]]:
    puzzles = training_puzzles(seed=curriculum.seed)
    lessons = (
        make_lesson(tokenizer, _hurry(puzzle, random, share=curriculum.hasty_share))
        for puzzle in puzzles
    )
    size = curriculum.puzzles_a_batch
    while True:
        drawn = sorted(
            islice(lessons, size * NUM_BATCHES_SORTED),
            key=lambda lesson: len(lesson.token_ids),
        )
        groups = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        random.shuffle(groups)
        yield from groups


def _hurry(puzzle: Puzzle, random: Random, *, share: float) -> Puzzle:
    questions = tuple(
        replace(question, reasoning="") if random.random() < share else question
        for question in puzzle.questions
    )
    return replace(puzzle, questions=questions)
