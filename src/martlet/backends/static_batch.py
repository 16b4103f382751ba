"""Requests that `generate` continues together: it computes logits, the sampler draws.

transformers offers two hooks, and this module has both: a logits processor that leaves only the
drawn token possible, and a stopping criterion that knows which rows are done. So every parameter
means here what it means in the native engine, and a draw depends on (seed, position) alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from martlet.engine.draws import NOT_FINITE
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
        """The longest reply that a row may draw."""
        return _max_num_new_tokens(self.requests)

    def padded_prompts(self, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The prompts, padded on the left.

        Returns:
            Token ids and attention mask, both `[N, T]`.
        """
        return pad_left([r.prompt_ids for r in self.requests], pad_id, device)

    def advance(self, logits: Tensor) -> dict[int, int]:
        """Draws the next token of every row that is not done.

        Args:
            logits: `[N, V]`, as the model gave them.

        Returns:
            Row to token id; a row whose logits are not finite ends without one.
        """
        rows = [row for row, request in enumerate(self.requests) if request.finish_reason is None]
        drawn = draw(logits[rows], [self.requests[row] for row in rows])
        pairs = zip(rows, drawn, strict=True)
        row_to_token_id = {row: token_id for row, token_id in pairs if token_id is not None}
        self._score(logits, row_to_token_id)
        for row in rows:
            if row in row_to_token_id:
                self._append(row, row_to_token_id[row])
            else:
                request = self.requests[row]
                request.finish_reason, request.error = "error", request.error or NOT_FINITE
        return row_to_token_id

    def _score(self, logits: Tensor, row_to_token_id: Mapping[int, int]) -> None:
        rows, token_ids = list(row_to_token_id), list(row_to_token_id.values())
        scores = score_drawn(logits[rows], [self.requests[row] for row in rows], token_ids)
        for row, score in zip(rows, scores, strict=True):
            if score is not None:
                self.requests[row].logprobs.append(score)

    def _append(self, row: int, token_id: int) -> None:
        request, decoder = self.requests[row], self.decoders[row]
        request.append(token_id)
        if token_id in request.stop_ids:
            request.finish_reason, request.stop_reason = "stop", token_id
            return
        decoder.push(token_id)
        if decoder.stop_string is not None:
            request.finish_reason, request.stop_reason = "stop", decoder.stop_string
        else:
            request.finish_reason = request.reached_end


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


def num_positions(requests: Sequence[Request]) -> int:
    """Positions that `generate` computes in each row of a batch.

    Every prompt is padded to the longest, and rows that are done go on until the last one is.
    """
    longest = max(request.num_prompt_tokens for request in requests)
    return longest + _max_num_new_tokens(requests)


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as one tensor.

    Returns:
        Token ids and attention mask, both `[N, T]`.
    """
    width = max(map(len, prompts))
    rows = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(masks, device=device)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: tuple[Tensor, Tensor],
    *,
    pad_id: int,
    max_num_new_tokens: int,
    processor: LogitsProcessor,
    criteria: Sequence[StoppingCriteria] = (),
) -> None:
    """Calls transformers' `generate`; what comes of it, the hooks have seen.

    Args:
        prompts: What `pad_left` returns.
        pad_id: What it padded with.
        processor: Sees the logits of every step, and leaves one token possible in each row.
        criteria: Tell which rows are done; without any, all rows get `max_num_new_tokens`.
    """
    input_ids, attention_mask = prompts
    config = GenerationConfig(
        max_new_tokens=max_num_new_tokens, do_sample=False, pad_token_id=pad_id
    )
    # transformers has no public type for the models that can generate.
    run = cast(Callable[..., Tensor], model.generate)
    run(
        input_ids,
        attention_mask=attention_mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([processor]),
        stopping_criteria=StoppingCriteriaList(criteria),
    )


def _max_num_new_tokens(requests: Sequence[Request]) -> int:
    return max(request.max_num_tokens - request.num_prompt_tokens for request in requests)
