"""Training rows of either family of puzzles: `python -m martlet.demo.rows turning --out FILE`.

The embedded model was never trained on `turning`: a few thousand rows show what fine-tuning does.
No row repeats a problem of the unseen splits, which measure it.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

from martlet.batch.prompts import multiple_choice_prompt
from martlet.demo.kinds.puzzle import FULL_SIZE
from martlet.demo.puzzles import Family, stream_puzzles, unseen_puzzles

_SIZES = range(1, FULL_SIZE + 1)
"""Small puzzles are learned first, and teach what large ones need."""
_SEED = 3
"""Neither that of the embedded model's training nor that of the unseen split."""


def training_rows(family: Family, *, seed: int = _SEED) -> Iterator[dict[str, object]]:
    """Conversations without end, one a question: the prompt of `martlet vote`, and the reply."""
    unseen = {puzzle.problem for puzzle in unseen_puzzles(family)}
    for puzzle in stream_puzzles(family, seed=seed, sizes=_SIZES):
        if puzzle.problem in unseen:
            continue
        for question in puzzle.questions:
            prompt = multiple_choice_prompt(puzzle.problem, question.question, question.options)
            yield {
                "messages": [
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": question.reply},
                ]
            }


def main() -> None:
    """Read the command line and write the rows."""
    parser = argparse.ArgumentParser(description="Write training rows of puzzles.")
    parser.add_argument("family", choices=get_args(Family))
    parser.add_argument("--count", type=int, default=3000, help="rows")
    parser.add_argument("--seed", type=int, default=_SEED)
    parser.add_argument("--out", type=Path, required=True, help="the JSON Lines file to write")
    given = parser.parse_args()
    rows = islice(training_rows(given.family, seed=given.seed), given.count)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    given.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
