"""Puzzles as tensors to train on: each problem is read once, and its questions branch off it.

    tokens     p p p p  q q r r  q q r r        p problem, q question, r reply
    branch     0 0 0 0  1 1 1 1  2 2 2 2
    position   0 1 2 3  4 5 6 7  4 5 6 7

A token sees the earlier tokens of its own branch and of the problem, so every branch trains just
as if it stood alone, for about two thirds of the compute.
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from martlet.batch.prompts import multiple_choice_prompt
from martlet.demo.kinds.puzzle import Puzzle, Question
from martlet.demo.tokenizer import END_TOKEN

_SHARED_BRANCH = 0
_PAD_BRANCH = -1


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One puzzle in token ids; the four tuples are parallel."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Where each token stands in its own conversation."""
    branches: tuple[int, ...]
    """0 for the shared problem, k for the k-th question."""
    is_reply: tuple[bool, ...]
    """Which tokens the model learns to write."""


class Batch(NamedTuple):
    """Lessons padded to one length; B is lessons, L tokens."""

    token_ids: Tensor  # [B, L] int64
    positions: Tensor  # [B, L] int64
    attention_mask: Tensor  # [B, 1, L, L] float32, added to the scores
    labels: Tensor  # [B, L] int64, -100 where nothing is learned


def render_prompt(tokenizer: PreTrainedTokenizerFast, puzzle: Puzzle, question: Question) -> str:
    """The conversation up to the reply, exactly as `martlet vote` builds it."""
    content = multiple_choice_prompt(puzzle.problem, question.question, question.options)
    return _render(tokenizer, content)


def _render(tokenizer: PreTrainedTokenizerFast, content: str) -> str:
    messages = [{"role": "user", "content": content}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def make_drill_lesson(tokenizer: PreTrainedTokenizerFast, drill: tuple[str, str]) -> Lesson:
    """Encode a drill, which shares nothing."""
    text, reply = drill
    prompt_ids = tokenizer.encode(_render(tokenizer, text))
    reply_ids = tokenizer.encode(reply + END_TOKEN)
    return _join_branches([prompt_ids], [reply_ids])


def make_lesson(tokenizer: PreTrainedTokenizerFast, puzzle: Puzzle) -> Lesson:
    """Encode a puzzle; what all its prompts begin with is kept once."""
    prompts = [render_prompt(tokenizer, puzzle, question) for question in puzzle.questions]
    prompt_ids = [tokenizer.encode(prompt) for prompt in prompts]
    reply_ids = [tokenizer.encode(question.reply + END_TOKEN) for question in puzzle.questions]
    return _join_branches(prompt_ids, reply_ids)


def _join_branches(prompt_ids: list[list[int]], reply_ids: list[list[int]]) -> Lesson:
    shared = _common_prefix(prompt_ids)
    token_ids, positions = shared.copy(), list(range(len(shared)))
    branches, is_reply = [_SHARED_BRANCH] * len(shared), [False] * len(shared)
    for branch, (prompt, reply) in enumerate(zip(prompt_ids, reply_ids, strict=True), start=1):
        own = prompt[len(shared) :] + reply
        token_ids += own
        positions += range(len(shared), len(shared) + len(own))
        branches += [branch] * len(own)
        is_reply += [False] * (len(own) - len(reply)) + [True] * len(reply)
    return Lesson(
        token_ids=tuple(token_ids),
        positions=tuple(positions),
        branches=tuple(branches),
        is_reply=tuple(is_reply),
    )


def _common_prefix(rows: list[list[int]]) -> list[int]:
    columns = zip(*rows, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def collate(lessons: list[Lesson], *, pad_id: int) -> Batch:
    """Pad lessons on the right and draw who sees whom."""
    longest = max(len(lesson.token_ids) for lesson in lessons)
    # Few different shapes keep the CPU library's cache of prepared products small.
    length = -(-longest // 16) * 16

    def padded(rows: list[tuple[int, ...]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])

    token_ids = padded([lesson.token_ids for lesson in lessons], pad_id)
    branches = padded([lesson.branches for lesson in lessons], _PAD_BRANCH)
    is_reply = padded([lesson.is_reply for lesson in lessons], False).bool()
    return Batch(
        token_ids=token_ids,
        positions=padded([lesson.positions for lesson in lessons], 0),
        attention_mask=_draw_mask(branches),
        labels=token_ids.masked_fill(~is_reply, -100),
    )


def _draw_mask(branches: Tensor) -> Tensor:
    length = branches.shape[1]
    seer, seen = branches[:, :, None], branches[:, None, :]
    may_see = (seer == seen) | (seen == _SHARED_BRANCH)  # [B, L, L]
    may_see &= torch.ones(length, length, dtype=torch.bool).tril()
    # A finite floor: padding rows of nothing but -inf would make NaN.
    floor = torch.finfo(torch.bfloat16).min
    return torch.zeros(may_see.shape).masked_fill(~may_see, floor)[:, None]
