"""vLLM on a CPU as a contestant: its own engine loop, token ids in and out."""

import os
import sys
from pathlib import Path

from martlet.bench.peers.protocol import Job, Run, Timeline, Work, contest

_CACHE_GIB = "4"
_INTEL_OPENMP = Path(sys.prefix, "lib", "libiomp5.so")
"""A fifth faster than GNU's for one request; vLLM preloads the latter unless told otherwise."""


def make(job: Job) -> Run:
    """Loads the model as `vllm.LLM` does; its threads are bound to all cores."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CACHE_GIB)
    # Its automatic binding leaves a core idle.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{job.num_threads - 1}")
    if _INTEL_OPENMP.exists():
        os.environ.setdefault("LD_PRELOAD", str(_INTEL_OPENMP))
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine = LLM(
        model=job.model,
        dtype=job.dtype,
        max_model_len=job.longest,
        skip_tokenizer_init=True,
        generation_config="vllm",
    ).llm_engine

    def run(work: Work, timeline: Timeline) -> None:
        for index, ask in enumerate(work.asks):
            params = SamplingParams(
                n=work.num_samples,
                temperature=work.temperature,
                max_tokens=ask.num_new_tokens,
                ignore_eos=not work.stop_ids,
                stop_token_ids=work.stop_ids,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            engine.add_request(f"{work.name}-{index}", {"prompt_token_ids": ask.prompt_ids}, params)
        while engine.has_unfinished_requests():
            for request in engine.step():
                for reply in request.outputs:
                    if reply.token_ids:
                        timeline.drawn(f"{request.request_id}-{reply.index}", len(reply.token_ids))

    return run


def version() -> str:
    """As the package calls itself."""
    import vllm

    return str(vllm.__version__)


if __name__ == "__main__":
    contest(make, version)
