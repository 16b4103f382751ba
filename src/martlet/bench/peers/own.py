"""Martlet's engine as a contestant."""

import torch

import martlet
from martlet.bench.peers.protocol import Job, Run, Timeline, Work, contest
from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel, load_model
from martlet.models.memory import plan_memory
from martlet.models.weights import Weights

MAX_NUM_REQUESTS = 256
_BLOCK_SIZE = 16


def make(job: Job) -> Run:
    """Loads the model; the pool is as large as the largest work can use, or memory allows."""
    folder = open_folder(job.model)
    dtype: torch.dtype = getattr(torch, job.dtype)
    weights: Weights = job.weights  # type: ignore[assignment]  # the bench has checked it
    model = load_model(folder, dtype=dtype, device=torch.device("cpu"), weights=weights)
    engine = Engine(model, _config(job, model))

    def run(work: Work, timeline: Timeline) -> None:
        for index, ask in enumerate(work.asks):
            params = SamplingParams(
                temperature=work.temperature,
                max_tokens=ask.num_new_tokens,
                ignore_eos=not work.stop_ids,
            )
            for k in range(work.num_samples):
                engine.add(
                    f"{index}-{k}",
                    ask.prompt_ids,
                    params,
                    seed=index * work.num_samples + k,
                    stop_ids=work.stop_ids,
                )
        while engine.num_unfinished:
            for output in engine.step():
                if output.token_id is None:
                    raise RuntimeError(f"request {output.request.request_id} failed")
                timeline.drawn(output.request.request_id)

    return run


def _config(job: Job, model: LoadedModel) -> EngineConfig:
    num_requests = min(job.most_requests, MAX_NUM_REQUESTS)
    plan = plan_memory(
        # They are in memory already, and what is available is without them.
        weights_bytes=0,
        kv_bytes_per_token=model.cache_bytes_per_token,
        block_size=_BLOCK_SIZE,
        max_context_tokens=job.longest,
        max_num_requests=num_requests,
    )
    return EngineConfig(
        num_blocks=plan.num_blocks,
        block_size=_BLOCK_SIZE,
        max_num_requests=num_requests,
        max_context_tokens=job.longest,
    )


if __name__ == "__main__":
    contest(make, lambda: martlet.__version__)
