"""transformers' `generate` as a contestant, in static batches: each ends with its longest reply."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from martlet.bench.peers.protocol import Ask, Job, Run, Timeline, Work, batches, contest

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64


def make(job: Job) -> Run:
    """Loads the model as `AutoModelForCausalLM` does."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.model, dtype=getattr(torch, job.dtype)
    ).eval()

    @torch.inference_mode()
    def run(work: Work, timeline: Timeline) -> None:
        for batch in batches(work, BATCH_SIZE):
            ids, mask = _padded(batch)
            model.generate(
                ids,
                attention_mask=mask,
                stopping_criteria=[_noting(batch, work, timeline)],
                eos_token_id=work.stop_ids or None,
                pad_token_id=0,
                **_sampling(work, longest=max(ask.num_new_tokens for _, ask in batch)),
            )

    return run


def _sampling(work: Work, *, longest: int) -> dict[str, Any]:
    """Parameters of `generate`: nothing but the temperature, whatever the folder recommends."""
    length = {"max_new_tokens": longest, "min_new_tokens": 0 if work.stop_ids else longest}
    if work.temperature == 0:
        return {**length, "do_sample": False}
    return {
        **length,
        "do_sample": True,
        "temperature": work.temperature,
        "top_k": 0,
        "top_p": 1.0,
    }


def _noting(
    batch: list[tuple[str, Ask]], work: Work, timeline: Timeline
) -> "Callable[..., torch.Tensor]":
    """A stopping criterion that stops nothing: called after every token of a batch, it notes those
    that were asked for."""
    import torch

    unfinished = {row: (name, ask.num_new_tokens) for row, (name, ask) in enumerate(batch)}
    num_drawn = 0

    def note(input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        nonlocal num_drawn
        num_drawn += 1
        newest = input_ids[:, -1].tolist()
        for row, (name, num_new_tokens) in list(unfinished.items()):
            timeline.drawn(name)
            if newest[row] in work.stop_ids or num_drawn == num_new_tokens:
                del unfinished[row]
        return torch.zeros(len(newest), dtype=torch.bool)

    return note


def _padded(batch: list[tuple[str, Ask]]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Ids and mask of a batch, `[N, longest]`, padded on the left."""
    import torch

    longest = max(len(ask.prompt_ids) for _, ask in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (_, ask) in enumerate(batch):
        ids[row, longest - len(ask.prompt_ids) :] = torch.tensor(ask.prompt_ids)
        mask[row, longest - len(ask.prompt_ids) :] = 1
    return ids, mask


def version() -> str:
    """As the package calls itself."""
    import transformers

    return transformers.__version__


if __name__ == "__main__":
    contest(make, version)
