"""How much there is to draw: what a journal has, and an estimate of the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from martlet.batch.draw import Draw
from martlet.batch.journal import Journal
from martlet.batch.plan import PlannedQuestion
from martlet.batch.sample import StoredSample
from martlet.batch.task import Task
from martlet.forecast.survival import Survival

_MAX_NUM_REPLIES = 20_000
"""Replies that are drawn from the estimate one by one; more would change no mean."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Some of a run's work; what is not known yet is a mean, and no whole number."""

    questions: int
    samples: float
    tokens_in: float
    """Of the prompts, one for each sample, as a server counts them."""
    tokens_out: float


@dataclass(frozen=True, kw_only=True)
class Open:
    """A question that is not decided yet."""

    num_samples: float
    """That are still to be drawn, on average."""
    num_prompt_tokens: float
    max_reply_tokens: int
    """No reply to it is longer."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run, divided into what is in the journal and what is left."""

    drawn: Amount
    open_questions: tuple[Open, ...]
    reply_lengths: Survival
    """Tokens of a reply that nothing cuts."""

    @property
    def left(self) -> Amount:
        """What is still to be drawn."""
        rest = self.open_questions
        return Amount(
            questions=len(rest),
            samples=sum(each.num_samples for each in rest),
            tokens_in=sum(each.num_samples * each.num_prompt_tokens for each in rest),
            tokens_out=sum(
                each.num_samples * self.reply_lengths.mean_up_to(each.max_reply_tokens)
                for each in rest
            ),
        )

    def replies(self) -> Iterator[tuple[float, float]]:
        """Prompt and reply of some samples that are left, in tokens, as they may come to be."""
        random = Random(0)
        shares = [each.num_samples for each in self.open_questions]
        if not sum(shares):
            return
        count = min(_MAX_NUM_REPLIES, max(1, round(self.left.samples)))
        for each in random.choices(self.open_questions, shares, k=count):
            length = self.reply_lengths.length_at(1.0 - random.random())
            yield each.num_prompt_tokens, max(1.0, min(length, each.max_reply_tokens))


def measure_work(
    task: Task,
    questions: Sequence[PlannedQuestion],
    *,
    journal: Journal,
    unended: Sequence[int] = (),
    max_context_tokens: int,
) -> Work:
    """Looks every question up in the journal.

    A reply that was cut by its limit, or that was still growing when a probe ended, counts as
    longer than that; an undecided question as one that takes more samples than it has.

    Args:
        unended: Tokens of the replies that were still growing.
        max_context_tokens: Prompt and reply together.
    """
    draws = [Draw(each, task.policy_of(each), journal.finished(each.key)) for each in questions]
    known = [sample for draw in draws for sample in draw.samples]
    cut = (each.num_tokens for each in known if each.finish_reason == "length")
    reply_lengths = Survival.of(
        (each.num_tokens for each in known if each.finish_reason != "length"), (*cut, *unended)
    )
    numbers = _samples_needed(draws)
    mean_prompt = _mean_prompt(draws, known)
    return Work(
        drawn=Amount(
            questions=sum(not draw.missing for draw in draws),
            samples=len(known),
            tokens_in=sum(each.num_prompt_tokens for each in known),
            tokens_out=sum(each.num_tokens for each in known),
        ),
        open_questions=tuple(
            _open(draw, numbers, mean_prompt, max_context_tokens) for draw in draws if draw.missing
        ),
        reply_lengths=reply_lengths,
    )


def _samples_needed(draws: Sequence[Draw]) -> Survival:
    """How many samples decide a question."""
    lengths = [(len(draw.outcome().samples), not draw.missing) for draw in draws]
    return Survival.of(
        (length for length, is_decided in lengths if is_decided),
        (length for length, is_decided in lengths if not is_decided),
    )


def _mean_prompt(draws: Sequence[Draw], known: Sequence[StoredSample]) -> float:
    """Tokens of a prompt that only a server has counted, by those that it has counted."""
    if any(draw.planned.packed_prompt for draw in draws) or not known:
        return 0.0
    return sum(each.num_prompt_tokens for each in known) / len(known)


def _open(draw: Draw, numbers: Survival, mean_prompt: float, max_context_tokens: int) -> Open:
    planned = draw.planned
    num_decided_by = numbers.mean_after(len(draw.outcome().samples), limit=planned.params.n)
    num_prompt_tokens = planned.num_prompt_tokens or mean_prompt
    room = max_context_tokens - round(num_prompt_tokens)
    num_ahead = draw.num_finished - len(draw.outcome().samples)
    return Open(
        num_samples=max(1.0, num_decided_by - num_ahead),
        num_prompt_tokens=num_prompt_tokens,
        max_reply_tokens=max(1, min(room, planned.params.max_tokens or room)),
    )
