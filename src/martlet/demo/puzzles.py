"""The puzzle generator: endless streams of short problems, the same for the same seed.

Two families: `deduction` is what the embedded model is trained on; `turning` is kept out of its
training, to show fine-tuning. `python -m martlet.demo.puzzles DIR` writes the embedded files.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal, Protocol

from martlet.demo.kinds.links import make_links
from martlet.demo.kinds.order import make_order
from martlet.demo.kinds.puzzle import FULL_SIZE, Language, Puzzle
from martlet.demo.kinds.rules import make_rules
from martlet.demo.kinds.turns import make_turns

Family = Literal["deduction", "turning"]

UNSEEN_SEED = 2
"""The seed of the puzzles that the model must never meet in training."""

NUM_UNSEEN = 600
"""How many puzzles of the unseen stream are kept out of training by their text."""

NUM_EMBEDDED = 60


class _Maker(Protocol):
    def __call__(self, random: Random, language: Language, *, size: int) -> Puzzle: ...


_KINDS: dict[Family, tuple[_Maker, ...]] = {
    "deduction": (make_order, make_links, make_rules),
    "turning": (make_turns,),
}


def stream_puzzles(
    family: Family, *, seed: int, sizes: Sequence[int] = (FULL_SIZE,)
) -> Iterator[Puzzle]:
    """Yield puzzles without end: kinds in turn, size and language drawn for each.

    Args:
        family: Which kinds to draw from.
        seed: Decides every puzzle of the stream.
        sizes: Sizes to draw from, 1 to 4.
    """
    random = Random(f"{family}-{seed}")
    while True:
        for make in _KINDS[family]:
            yield make(random, random.choice(("en", "zh")), size=random.choice(sizes))


def unseen_puzzles(family: Family = "deduction", *, count: int = NUM_UNSEEN) -> list[Puzzle]:
    """The first `count` puzzles of the split that no training of ours meets."""
    return list(islice(stream_puzzles(family, seed=UNSEEN_SEED), count))


def puzzle_row(puzzle: Puzzle, *, row_id: str) -> dict[str, object]:
    """The puzzle as one row of a competition file, without its reasoning."""
    questions = [
        {"question": each.question, "options": list(each.options), "answer": each.answer}
        for each in puzzle.questions
    ]
    return {
        "id": row_id,
        "problem": puzzle.problem,
        "questions": questions,
        "kind": puzzle.kind,
    }


def puzzle_lines(family: Family, *, prefix: str) -> str:
    """The embedded JSON Lines file of a family: the head of its unseen split.

    Args:
        family: Which family.
        prefix: What the row ids begin with.
    """
    rows = [
        puzzle_row(puzzle, row_id=f"{prefix}-{index:03}")
        for index, puzzle in enumerate(unseen_puzzles(family, count=NUM_EMBEDDED))
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Write both embedded files into the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write the embedded puzzle files.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    (folder / "puzzles.jsonl").write_text(puzzle_lines("deduction", prefix="demo"), "utf-8")
    (folder / "held_out.jsonl").write_text(puzzle_lines("turning", prefix="turn"), "utf-8")


if __name__ == "__main__":
    main()
