"""llama.cpp as a contestant: a loop over its batches as its server's, one sequence a reply."""

import logging
import os
from collections import deque
from dataclasses import dataclass
from typing import Any

from martlet.bench.peers.gguf_file import convert
from martlet.bench.peers.protocol import Ask, Job, Run, Timeline, Work, contest

_BATCH_TOKENS = 2048
_SHARED = 0
"""The sequence of what all prompts begin with; those of the replies follow."""
_SEED = 0


def make(job: Job) -> Run:
    """Loads the converted model, and makes room for each work beforehand."""
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    model = llama_cpp.llama_model_load_from_file(
        os.fsencode(job.converted), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {job.converted}")
    engines = {work.name: _Engine(model, work, job.num_threads) for work in job.works}

    def run(work: Work, timeline: Timeline) -> None:
        # The warm-up is none of the job's works, and fits where the longest does.
        engine = engines.get(work.name) or max(engines.values(), key=lambda each: each.num_tokens)
        _Loop(engine, work, timeline).run()

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

    def __init__(self, engine: "_Engine", work: Work, timeline: Timeline) -> None:
        self._engine = engine
        self._work = work
        self._timeline = timeline
        self._asks = deque(enumerate(work.asks))
        self._shared = _common_beginning(work.asks)
        self._sequences: list[_Sequence] = []
        """By their numbers, without a gap: the engine computes neighbours alone together."""

    def run(self) -> None:
        """Draws all of them."""
        for first in range(0, len(self._shared), _BATCH_TOKENS):
            self._engine.add(_SHARED, first, self._shared[first : first + _BATCH_TOKENS])
            self._engine.decode()
        while self._asks or self._sequences:
            self._start()
            rows = self._add()
            self._engine.decode()
            for sequence, row in rows:
                for each in self._split(sequence):
                    self._draw(each, row)
            self._end()

    def _start(self) -> None:
        """Takes up prompts while the batch has room for more, and sequences for their samples."""
        room = _BATCH_TOKENS - sum(len(each.waiting) for each in self._sequences)
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
        room = _BATCH_TOKENS - len(self._sequences)
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
    return list(os.path.commonprefix(prompts)[: min(map(len, prompts)) - 1])


class _Engine:
    """A context and a batch for it.

    Args:
        model: Of llama.cpp.
        work: Which is to fit.
        num_threads: It computes with.
    """

    def __init__(self, model: Any, work: Work, num_threads: int) -> None:
        import llama_cpp

        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = min(1 + work.num_requests, llama_cpp.llama_max_parallel_sequences())
        params.n_ctx = params.n_seq_max * work.longest
        params.n_batch = _BATCH_TOKENS
        params.n_outputs_max = params.n_seq_max
        params.n_threads = params.n_threads_batch = num_threads
        self.num_sequences: int = params.n_seq_max
        """At once."""
        self._calls = llama_cpp
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp has no room for the work {work.name}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self._sampler = _sampler(work.temperature)

    def add(self, sequence: int, position: int, tokens: list[int]) -> int:
        """Puts tokens of a sequence into the batch; the last tells the next.

        Args:
            sequence: Its number.
            position: Of the first token.
            tokens: One or more.

        Returns:
            The row of the last.
        """
        batch = self._batch
        for offset, token in enumerate(tokens):
            row = batch.n_tokens + offset
            batch.token[row] = token
            batch.pos[row] = position + offset
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = offset == len(tokens) - 1
        batch.n_tokens += len(tokens)
        return int(batch.n_tokens) - 1

    def decode(self) -> None:
        """Computes the batch, which is empty then."""
        status = self._calls.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode fails with {status}")
        self._batch.n_tokens = 0

    def sample(self, row: int) -> int:
        """Draws a token behind a row of the batch that was computed last."""
        return int(self._calls.llama_sampler_sample(self._sampler, self._context, row))

    def copy(self, source: int, target: int) -> None:
        """Makes a sequence that is empty the same as another."""
        self._calls.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def forget(self, sequence: int) -> None:
        """Empties a sequence."""
        self._calls.llama_memory_seq_rm(self._memory, sequence, -1, -1)


def _sampler(temperature: float) -> Any:
    """By llama.cpp's own samplers, with nothing but the temperature."""
    import llama_cpp

    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if temperature == 0:
        stages = [llama_cpp.llama_sampler_init_greedy()]
    else:
        stages = [
            llama_cpp.llama_sampler_init_temp(temperature),
            llama_cpp.llama_sampler_init_dist(_SEED),
        ]
    for stage in stages:
        llama_cpp.llama_sampler_chain_add(chain, stage)
    return chain


def version() -> str:
    """As the package calls itself."""
    import llama_cpp

    return str(llama_cpp.__version__)


if __name__ == "__main__":
    contest(make, version, convert)
