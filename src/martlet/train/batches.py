"""Encoded rows as the tensors of one forward pass, packed or padded."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from martlet.train.encoding import EncodedExample
from martlet.train.segments import attend_in_segments, packed_inputs

Batch = dict[str, Tensor]
"""`input_ids` `[B, L]`, of packed rows `[1, T]`; `labels` `[1 + N]`, -100 and the tokens to be
learned; `logits_to_keep` `[N]`, where in the row each is predicted; what the attention needs."""
Collate = Callable[[Sequence[EncodedExample]], Batch]


class Rows(Dataset[EncodedExample]):
    """Encoded rows, as a data loader takes them."""

    def __init__(self, examples: Sequence[EncodedExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> EncodedExample:
        return self._examples[index]


def collate_for(model: PreTrainedModel) -> Collate:
    """How a model's rows are batched: packed, where the architecture allows it.

    The model's attention is switched accordingly.
    """
    return pack if attend_in_segments(model) else pad


def pack(examples: Sequence[EncodedExample]) -> Batch:
    """Puts rows behind one another, `[1, T]`. Only what predicts a target meets the LM head."""
    sequences = [torch.tensor([each.token_ids]) for each in examples]
    is_target = torch.tensor([flag for each in examples for flag in _targets(each)])
    inputs = packed_inputs(sequences)
    positions = is_target.nonzero()[:, 0]
    targets = inputs["input_ids"][0, positions]
    # The trainer takes the first label for one that nothing predicts, and counts the others.
    labels = torch.cat((targets.new_tensor([-100]), targets))
    return {**inputs, "logits_to_keep": positions - 1, "labels": labels}


def pad(examples: Sequence[EncodedExample]) -> Batch:
    """Fills rows up to the longest, `[B, L]`; labels of -100 count for nothing.

    For architectures whose sequences cannot share a row.
    """
    length = max(len(each.token_ids) for each in examples)
    input_ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for row, each in enumerate(examples):
        ids = torch.tensor(each.token_ids)
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
        labels[row, : len(ids)] = torch.where(torch.tensor(_targets(each)), ids, -100)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def _targets(example: EncodedExample) -> tuple[bool, ...]:
    # Nothing predicts the first token of a sequence.
    return (False, *example.is_target[1:])
