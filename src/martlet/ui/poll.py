"""A vote while it is taken: samples are asked for in waves until nothing can change the winner."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from martlet.answers.ballot import BallotReader
from martlet.answers.policy import VotePolicy
from martlet.answers.vote import Vote, majority
from martlet.ui.reply import Reply

_REFRESH_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A finished sample, as a policy reads it."""

    text: str
    num_tokens: int
    finish_reason: str
    cumulative_logprob: float | None = None


@dataclass(kw_only=True)
class Poll:
    """One question's vote.

    Args:
        policy: Says which samples are wanted.
        reader: Reads their answers.
        num_samples: Of a full vote.
    """

    policy: VotePolicy
    reader: BallotReader
    num_samples: int
    replies: dict[int, Reply] = field(default_factory=dict)
    finished: dict[int, Sample] = field(default_factory=dict)
    is_decided: bool = False

    def answer(self, index: int) -> str | None:
        """What a finished sample says."""
        return self.reader.read(self.finished[index]).value

    def standing(self) -> Vote:
        """The vote of the samples that decide it; before that, of all that have finished."""
        if self.is_decided:
            return self.policy.decide(self.finished)
        return majority([self.reader.read(self.finished[index]) for index in sorted(self.finished)])

    async def take(
        self, ask: Callable[[int, Reply], asyncio.Task[None]], stop: asyncio.Event
    ) -> AsyncGenerator[None]:
        """Draws what is wanted, and comes back a few times a second.

        Args:
            ask: Begins to draw a sample, by its number, into a reply.
            stop: Ends it early.

        Raises:
            MartletError: Of the first sample that failed.
        """
        drawings: dict[int, asyncio.Task[None]] = {}
        try:
            while not stop.is_set():
                self._collect(drawings)
                wanted = self.policy.wanted(self.finished)
                self.is_decided = not wanted
                if self.is_decided:
                    return
                for index in wanted:
                    if index not in drawings:
                        reply = self.replies[index] = Reply()
                        drawings[index] = ask(index, reply)
                await asyncio.wait(
                    [task for task in drawings.values() if not task.done()],
                    timeout=_REFRESH_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                yield
        finally:
            for drawing in drawings.values():
                drawing.cancel()
            await asyncio.gather(*drawings.values(), return_exceptions=True)

    def _collect(self, drawings: dict[int, asyncio.Task[None]]) -> None:
        for index, drawing in drawings.items():
            if drawing.done() and index not in self.finished:
                drawing.result()
                reply = self.replies[index]
                self.finished[index] = Sample(
                    text=reply.text,
                    num_tokens=reply.facts()["num_tokens"],
                    finish_reason=reply.ending or "stop",
                )
