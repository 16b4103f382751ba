"""llama.cpp's own calls: sequences in a cache, and a batch of their tokens."""

from typing import Any

from martlet.bench.peers.protocol import Work

BATCH_TOKENS = 2048
"""Of all sequences together, at most, in one call."""
_SEED = 0


class Engine:
    """Sequences, whose keys and values lie apart: attention over one cache for all of them
    (`kv_unified`) measured slower.

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
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_outputs_max = params.n_seq_max
        params.n_threads = params.n_threads_batch = num_threads
        self.num_sequences: int = params.n_seq_max
        """At once."""
        self._calls = llama_cpp
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp has no room for the work {work.name}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
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
