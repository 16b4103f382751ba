"""llama.cpp as a contestant: a loop over its batches as its server's, one sequence a reply."""

import logging
import os
from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from martlet.bench.peers.gguf_file import convert
from martlet.bench.peers.llama_cpp_engine import BATCH_TOKENS, Engine
from martlet.bench.peers.protocol import Ask, Job, Run, Timeline, Work, contest

_SHARED = 0
"""The sequence of what all prompts begin with; those of the replies follow."""


def make(job: Job) -> Run:
    """Loads the converted model, and makes room for each work beforehand."""
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    model = llama_cpp.llama_model_load_from_file(
        os.fsencode(job.converted), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {job.converted}")
    engines = {work.name: Engine(model, work, job.num_threads) for work in job.works}
    longest = max(job.works, key=lambda work: work.longest)

    def run(work: Work, timeline: Timeline) -> None:
        # The warm-up is none of the job's works, and fits where the longest does.
        _Loop(engines.get(work.name, engines[longest.name]), work, timeline).run()

    return run


@dataclass
class _Sequence:
    """A prompt, then a reply to it."""

    ask: Ask
    names: list[str]
    """Of the replies: all samples of a prompt until it is computed, then one."""
    number: int
    """As the engine calls it."""
    position: int
    """Of the first token that waits."""
    waiting: list[int]
    """Tokens that are not computed yet."""
    num_drawn: int = 0
    is_finished: bool = False


class _Loop:
    """Draws the replies of a work; each step computes the newest token of every reply and, as far
    as the batch has room, prompts."""

    def __init__(self, engine: Engine, work: Work, timeline: Timeline) -> None:
        self._engine = engine
        self._work = work
        self._timeline = timeline
        self._asks = deque(enumerate(work.asks))
        self._shared = _common_beginning(work.asks)
        self._sequences: list[_Sequence] = []
        """By their numbers, without a gap: the engine computes neighbours alone together."""

    def run(self) -> None:
        """Draws all of them."""
        for first in range(0, len(self._shared), BATCH_TOKENS):
            self._engine.add(_SHARED, first, self._shared[first : first + BATCH_TOKENS])
            self._engine.decode()
        while self._asks or self._sequences:
            self._start()
            rows = self._add()
            self._engine.decode()
            for sequence, row in rows:
                for each in self._split(sequence):
                    self._draw(each, row)
            self._end()
        self._engine.forget(_SHARED)

    def _start(self) -> None:
        """Takes up prompts while the batch has room for more, and sequences for their samples."""
        room = BATCH_TOKENS - sum(len(each.waiting) for each in self._sequences)
        num_free = self._engine.num_sequences - 1 - sum(len(each.names) for each in self._sequences)
        while self._asks and room > 0 and num_free >= self._work.num_samples:
            index, ask = self._asks.popleft()
            names = [f"{index}-{sample}" for sample in range(self._work.num_samples)]
            done = len(self._shared)
            started = _Sequence(ask, names, self._next_number, done, ask.prompt_ids[done:])
            if done:
                self._engine.copy(_SHARED, started.number)
            self._sequences.append(started)
            room -= len(started.waiting)
            num_free -= len(names)

    def _add(self) -> list[tuple[_Sequence, int]]:
        """Fills the batch: a token of each sequence, more of prompts while there is room.

        Returns:
            Those whose next token this step tells, each with the row that tells it.
        """
        room = BATCH_TOKENS - len(self._sequences)
        telling = []
        for sequence in self._sequences:
            tokens = sequence.waiting[: 1 + room]
            row = self._engine.add(sequence.number, sequence.position, tokens)
            sequence.position += len(tokens)
            del sequence.waiting[: len(tokens)]
            room -= len(tokens) - 1
            if not sequence.waiting:
                telling.append((sequence, row))
        return telling

    def _split(self, sequence: _Sequence) -> list[_Sequence]:
        """Gives each sample of a prompt that is computed a sequence of its own."""
        first, *others = sequence.names
        sequence.names = [first]
        samples = [sequence]
        for name in others:
            number = self._next_number
            self._engine.copy(sequence.number, number)
            samples.append(_Sequence(sequence.ask, [name], number, sequence.position, []))
            self._sequences.append(samples[-1])
        return samples

    def _draw(self, sequence: _Sequence, row: int) -> None:
        token = self._engine.sample(row)
        self._timeline.drawn(sequence.names[0])
        sequence.waiting.append(token)
        sequence.num_drawn += 1
        sequence.is_finished = (
            token in self._work.stop_ids or sequence.num_drawn == sequence.ask.num_new_tokens
        )

    def _end(self) -> None:
        """Lets go of what is finished; the last sequence fills a gap."""
        for sequence in [each for each in reversed(self._sequences) if each.is_finished]:
            last = self._sequences.pop()
            self._engine.forget(sequence.number)
            if last is not sequence:
                self._engine.copy(last.number, sequence.number)
                self._engine.forget(last.number)
                last.number = sequence.number
                self._sequences[last.number - 1] = last

    @property
    def _next_number(self) -> int:
        return len(self._sequences) + 1


def _common_beginning(asks: list[Ask]) -> list[int]:
    """What all prompts begin with; each keeps a token of its own, and a single one keeps all."""
    prompts = [ask.prompt_ids for ask in asks]
    if len(prompts) == 1:
        return []
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return [column[0] for column in columns][: min(map(len, prompts)) - 1]


def version() -> str:
    """As the package calls itself."""
    import llama_cpp

    return str(llama_cpp.__version__)


if __name__ == "__main__":
    contest(make, version, convert)
