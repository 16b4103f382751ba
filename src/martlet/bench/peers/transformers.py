"""transformers' `generate` as a contestant, in static batches: each ends with its longest reply."""

from typing import Any

import torch
import transformers

from martlet.bench.peers.protocol import Ask, Job, Run, Timeline, Work, batches, contest

BATCH_SIZE = 64


def make(job: Job) -> Run:
    """Loads the model as `AutoModelForCausalLM` does."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.model, dtype=getattr(torch, job.dtype)
    ).eval()

    @torch.inference_mode()
    def run(work: Work, timeline: Timeline) -> None:
        for batch in batches(work, BATCH_SIZE):
            ids, mask = _padded(batch)
            noted = _Noted(batch, work, timeline)
            longest = max(ask.num_new_tokens for _, ask in batch)
            length: dict[str, Any] = {"max_new_tokens": longest}
            if not work.stop_ids:
                length["min_new_tokens"] = longest
            sampling: dict[str, Any] = {"do_sample": work.temperature > 0}
            if work.temperature > 0:
                # Nothing but the temperature, whatever the folder recommends.
                sampling |= {"temperature": work.temperature, "top_k": 0, "top_p": 1.0}
            model.generate(
                ids,
                attention_mask=mask,
                stopping_criteria=[noted],
                eos_token_id=work.stop_ids or None,
                pad_token_id=0,
                **length,
                **sampling,
            )

    return run


class _Noted(transformers.StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Stops nothing: called after every token of a batch, it notes those that were asked for."""

    def __init__(self, batch: list[tuple[str, Ask]], work: Work, timeline: Timeline) -> None:
        self._open = {row: (name, ask.num_new_tokens) for row, (name, ask) in enumerate(batch)}
        self._stop_ids = frozenset(work.stop_ids)
        self._timeline = timeline
        self._num_drawn = 0

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self._num_drawn += 1
        newest = input_ids[:, -1].tolist()
        for row, (name, num_new_tokens) in list(self._open.items()):
            self._timeline.drawn(name)
            if newest[row] in self._stop_ids or self._num_drawn == num_new_tokens:
                del self._open[row]
        return torch.zeros(len(newest), dtype=torch.bool)


def _padded(batch: list[tuple[str, Ask]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of a batch, `[N, longest]`, padded on the left."""
    longest = max(len(ask.prompt_ids) for _, ask in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (_, ask) in enumerate(batch):
        ids[row, longest - len(ask.prompt_ids) :] = torch.tensor(ask.prompt_ids)
        mask[row, longest - len(ask.prompt_ids) :] = 1
    return ids, mask


if __name__ == "__main__":
    contest(make, lambda: transformers.__version__)
