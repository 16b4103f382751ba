"""The embedded model's own work: its puzzles, in its own words, until it ends its reply."""

from martlet.batch.prompts import multiple_choice_prompt
from martlet.bench.peers.protocol import Ask, Work
from martlet.demo import model_path
from martlet.demo.puzzles import unseen_puzzles
from martlet.text.tokenizer import Tokenizer

_NUM_PUZZLES = 64
_NUM_SAMPLES = 8
_MAX_NEW_TOKENS = 96
"""Its longest replies are shorter."""


def puzzle_work(*, num_puzzles: int = _NUM_PUZZLES) -> Work:
    """A vote of 8 on the first question of each of some unseen puzzles.

    Args:
        num_puzzles: At least one.
    """
    tokenizer = Tokenizer.load(model_path())
    asks = []
    for puzzle in unseen_puzzles(count=num_puzzles):
        question = puzzle.questions[0]
        words = multiple_choice_prompt(puzzle.problem, question.question, question.options)
        _, ids = tokenizer.render([{"role": "user", "content": words}])
        asks.append(Ask(list(ids), _MAX_NEW_TOKENS))
    return Work(
        "puzzles",
        f"{num_puzzles} puzzles, {_NUM_SAMPLES} samples each, as long as the model talks",
        asks,
        num_samples=_NUM_SAMPLES,
        temperature=0.7,
        stop_ids=list(tokenizer.stop_ids),
    )
