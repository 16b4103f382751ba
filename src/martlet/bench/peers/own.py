"""Martlet's engine as a contestant."""

from typing import TYPE_CHECKING, cast

from martlet.bench.peers.protocol import Job, Run, Timeline, Work, contest

if TYPE_CHECKING:
    from martlet.engine.config import EngineConfig
    from martlet.models.load import LoadedModel
    from martlet.models.weights import Weights

MAX_NUM_REQUESTS = 256
_BLOCK_SIZE = 16


def make(job: Job) -> Run:
    """Loads the model; the pool is as large as the largest work can use, or memory allows."""
    import torch

    from martlet.engine.engine import CROWD, Engine
    from martlet.engine.params import SamplingParams
    from martlet.models.folder import open_folder
    from martlet.models.load import load_model

    model = load_model(
        open_folder(job.model),
        dtype=getattr(torch, job.dtype),
        device=torch.device("cpu"),
        weights=cast("Weights", job.weights),
    )
    if job.most_requests >= CROWD:
        model.compile_for_crowd()  # It is a part of getting ready, as it is for wide models.
    engine = Engine(model, _config(job, model))

    def add(work: Work) -> None:
        for index, ask in enumerate(work.asks):
            params = SamplingParams(
                temperature=work.temperature,
                max_tokens=ask.num_new_tokens,
                ignore_eos=not work.stop_ids,
            )
            for k in range(work.num_samples):
                name, seed = f"{index}-{k}", index * work.num_samples + k
                engine.add(name, ask.prompt_ids, params, seed=seed, stop_ids=work.stop_ids)

    def run(work: Work, timeline: Timeline) -> None:
        add(work)
        while engine.num_unfinished:
            for output in engine.step():
                if output.finish_reason == "error":
                    raise RuntimeError(f"request {output.request.request_id} failed")
                timeline.drawn(output.request.request_id, len(output.token_ids))

    return run


def _config(job: Job, model: "LoadedModel") -> "EngineConfig":
    from martlet.engine.config import EngineConfig
    from martlet.models.memory import plan_memory

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
        # A reply that is made to go on past its end goes round in circles, and is guessed as none
        # that people wait for is.
        speculation=all(work.stop_ids for work in job.works),
    )


def version() -> str:
    """As the package calls itself."""
    import martlet

    return martlet.__version__


if __name__ == "__main__":
    contest(make, version)
