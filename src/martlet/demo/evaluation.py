"""How good the embedded model is on puzzles that it has not seen, with plain transformers.

`python -m martlet.demo.evaluation` samples every question several times and prints the accuracy of
one sample and of the vote, by kind and language. It shares no code with Martlet's own engine and
vote, and so checks them from outside.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from martlet.demo import model_path
from martlet.demo.kinds.puzzle import Puzzle, Question
from martlet.demo.lessons import render_prompt
from martlet.demo.puzzles import unseen_puzzles

NUM_SAMPLES = 8
TEMPERATURE = 0.7
NUM_QUESTIONS_A_BATCH = 32

_LAST_LETTER = re.compile(r"(?:The answer is |答案是：)([A-D])")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the model answered to one question."""

    puzzle: Puzzle
    question: Question
    letters: tuple[str | None, ...]
    """One for each sample; None where a reply names no letter."""

    @property
    def num_right(self) -> int:
        """How many samples are right."""
        return self.letters.count(self.question.answer)

    @property
    def is_vote_right(self) -> bool:
        """Whether the most frequent letter is right; the first seen wins a tie."""
        votes = Counter(letter for letter in self.letters if letter is not None)
        return bool(votes) and votes.most_common(1)[0][0] == self.question.answer


def read_letter(reply: str) -> str | None:
    """The letter that a reply's last line names."""
    letters = _LAST_LETTER.findall(reply)
    return letters[-1] if letters else None


def sample_outcomes(folder: Path, puzzles: Sequence[Puzzle], *, seed: int) -> list[Outcome]:
    """Ask every question of `puzzles` several times.

    Args:
        folder: A model as transformers saves it.
        puzzles: What to ask.
        seed: Of the sampling.
    """
    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder)
    asked = [(puzzle, question) for puzzle in puzzles for question in puzzle.questions]
    outcomes = []
    for start in range(0, len(asked), NUM_QUESTIONS_A_BATCH):
        part = asked[start : start + NUM_QUESTIONS_A_BATCH]
        prompts = [render_prompt(tokenizer, puzzle, question) for puzzle, question in part]
        replies = _sample_replies(model, tokenizer, prompts)
        for index, (puzzle, question) in enumerate(part):
            mine = replies[index * NUM_SAMPLES : (index + 1) * NUM_SAMPLES]
            letters = tuple(read_letter(reply) for reply in mine)
            outcomes.append(Outcome(puzzle=puzzle, question=question, letters=letters))
        print(f"{len(outcomes)}/{len(asked)} questions", file=sys.stderr, flush=True)
    return outcomes


def _sample_replies(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> list[str]:
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    num_prompt_tokens = encoded["input_ids"].shape[1]
    token_ids = model.generate(  # type: ignore[misc]  # the stubs miss that every causal model fits
        **encoded,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        num_return_sequences=NUM_SAMPLES,
        max_new_tokens=64,
    )  # [B * NUM_SAMPLES, L]
    replies = token_ids[:, num_prompt_tokens:]
    return tokenizer.batch_decode(replies, skip_special_tokens=True)


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print accuracies as a Markdown table: all, by kind, by language."""
    print(f"| puzzles | questions | one sample | vote of {NUM_SAMPLES} |")
    print("|---|---:|---:|---:|")
    _print_line("all", outcomes)
    for kind in sorted({outcome.puzzle.kind for outcome in outcomes}):
        _print_line(kind, [each for each in outcomes if each.puzzle.kind == kind])
    for language in ("en", "zh"):
        _print_line(language, [each for each in outcomes if each.puzzle.language == language])


def _print_line(name: str, outcomes: Sequence[Outcome]) -> None:
    num_questions = len(outcomes)
    single = sum(outcome.num_right for outcome in outcomes) / (num_questions * NUM_SAMPLES)
    vote = sum(outcome.is_vote_right for outcome in outcomes) / num_questions
    print(f"| {name} | {num_questions} | {single:.1%} | {vote:.1%} |", flush=True)


def main() -> None:
    """Read the command line, then print one table for each family."""
    parser = argparse.ArgumentParser(description="Evaluate the embedded model.")
    parser.add_argument("--model", type=Path, default=model_path())
    parser.add_argument("--puzzles", type=int, default=200, help="puzzles of each family")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    arguments = parser.parse_args()
    for family in ("deduction", "turning"):
        puzzles = unseen_puzzles(family, count=arguments.puzzles)
        print(f"\n{family}\n")
        print_table(sample_outcomes(arguments.model, puzzles, seed=arguments.seed))


if __name__ == "__main__":
    main()
