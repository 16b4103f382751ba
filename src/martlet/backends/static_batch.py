"""Requests that `generate` continues together: it computes logits, the sampler draws.

transformers offers two hooks, and this module is both: a logits processor that leaves only the
drawn token possible, and a stopping criterion that knows which rows are done. So every parameter
means here what it means in the native engine, and a draw depends on (seed, position) alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from martlet.engine.request import Request
from martlet.engine.sampler import draw, score_drawn
from martlet.text.stream import StreamDecoder


class StaticBatch:
    """The rows of one call of `generate`. Changes its requests: tokens, scores, how they end.

    Args:
        requests: One a row; those that are done keep their row until the last one is.
        decoders: The text of each request's reply, still empty.
    """

    def __init__(self, requests: Sequence[Request], decoders: Sequence[StreamDecoder]) -> None:
        self.requests = requests
        self.decoders = decoders

    @property
    def max_num_new_tokens(self) -> int:
        """The longest reply that a row may still draw."""
        return max(request.max_num_tokens - request.num_tokens for request in self.requests)

    def padded_prompts(self, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The prompts, padded on the left.

        Returns:
            Token ids and attention mask, both `[N, T]`.
        """
        width = max(request.num_prompt_tokens for request in self.requests)
        rows = [[pad_id] * (width - r.num_prompt_tokens) + r.token_ids for r in self.requests]
        masks = [
            [0] * (width - r.num_prompt_tokens) + [1] * r.num_prompt_tokens for r in self.requests
        ]
        return torch.tensor(rows, device=device), torch.tensor(masks, device=device)

    def advance(self, logits: Tensor) -> dict[int, int]:
        """Draws the next token of every row that is not done.

        Args:
            logits: `[N, V]`, as the model gave them.

        Returns:
            Row to token id.
        """
        rows = [row for row, request in enumerate(self.requests) if request.finish_reason is None]
        requests = [self.requests[row] for row in rows]
        active = logits[rows]  # [M, V]
        token_ids = draw(active, requests)
        scores = score_drawn(active, requests, token_ids)
        for row, token_id, score in zip(rows, token_ids, scores, strict=True):
            if score is not None:
                self.requests[row].logprobs.append(score)
            self._append(row, token_id)
        return dict(zip(rows, token_ids, strict=True))

    def _append(self, row: int, token_id: int) -> None:
        request, decoder = self.requests[row], self.decoders[row]
        request.token_ids.append(token_id)
        if token_id in request.stop_ids:
            request.finish_reason, request.stop_reason = "stop", token_id
            return
        decoder.push(token_id)
        if decoder.stop_string is not None:
            request.finish_reason, request.stop_reason = "stop", decoder.stop_string
        elif request.num_tokens >= request.max_num_tokens:
            request.finish_reason = "length"


class DrawnTokens(LogitsProcessor):
    """Draws a batch's next tokens and makes every other token impossible."""

    def __init__(self, batch: StaticBatch) -> None:
        self._batch = batch

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        row_to_token_id = self._batch.advance(scores)
        decided = torch.full_like(scores, float("-inf"))  # [N, V]
        decided[list(row_to_token_id), list(row_to_token_id.values())] = 0
        return decided


class DoneRows(StoppingCriteria):
    """Tells which rows of a batch are done."""

    def __init__(self, batch: StaticBatch) -> None:
        self._batch = batch

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # noqa: ARG002
        done = [request.finish_reason is not None for request in self._batch.requests]
        return torch.tensor(done, device=input_ids.device)  # [N]
