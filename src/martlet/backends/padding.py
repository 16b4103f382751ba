"""The proof that a model looks past padding: that rows may share a batch with longer ones.

An architecture does not say so. Some keep a state that padding goes into, some count positions
from the start of the row whatever the mask says, and all of them answer without a complaint.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from martlet.backends.static_batch import generate, pad_left

_PROMPT_LENGTHS = (3, 11)
_NUM_STEPS = 2  # the prompt, and a token that attends to what was kept of it
_FP32_TOLERANCE = 1e-3
_LOW_PRECISION_TOLERANCE = 0.1


class _Recorder(LogitsProcessor):
    """Keeps the logits of each step, and has every row continue with the same token."""

    def __init__(self, token_id: int) -> None:
        self.steps: list[Tensor] = []
        self._token_id = token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        self.steps.append(scores.float())
        decided = torch.full_like(scores, float("-inf"))  # [N, V]
        decided[:, self._token_id] = 0
        return decided


def find_padding_fault(model: PreTrainedModel, *, pad_id: int, vocab_size: int) -> str | None:
    """Computes two prompts padded to one length, and each alone.

    Args:
        pad_id: What prompts are padded with.
        vocab_size: Token ids are below this.

    Returns:
        What is wrong with padded prompts, in words; None if both ways give the same logits.
    """
    numbers = iter(range(7, 7 + 13 * sum(_PROMPT_LENGTHS), 13))
    prompts = [[next(numbers) % vocab_size for _ in range(length)] for length in _PROMPT_LENGTHS]
    try:
        together = _logits(model, prompts, pad_id)  # [S, N, V]
        alone = torch.cat([_logits(model, [prompt], pad_id) for prompt in prompts], dim=1)
    except Exception as error:  # each architecture has its own ways to fail
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    change = _relative_change(together, alone)
    tolerance = _FP32_TOLERANCE if model.dtype == torch.float32 else _LOW_PRECISION_TOLERANCE
    # Not `change > tolerance`, which is false of NaN.
    return None if change <= tolerance else f"its logits change by {change:.2g} of their size"


def _logits(model: PreTrainedModel, prompts: list[list[int]], pad_id: int) -> Tensor:
    recorder = _Recorder(token_id=1)
    generate(
        model,
        pad_left(prompts, pad_id, model.device),
        pad_id=pad_id,
        max_num_new_tokens=_NUM_STEPS,
        processor=recorder,
    )
    return torch.stack(recorder.steps)


def _relative_change(logits: Tensor, expected: Tensor) -> float:
    # What all logits of a row have in common changes no draw, and can be far larger than the rest.
    size = (expected - expected.mean(dim=-1, keepdim=True)).norm(dim=-1)  # [S, N]
    difference = logits - expected
    difference_size = (difference - difference.mean(dim=-1, keepdim=True)).norm(dim=-1)
    return float((difference_size / size).max())
