"""The proof that an adapter does something: its logits are compared with the base's, at load."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.errors import AdapterError
from martlet.lora.revision import AdapterRevision

NUM_PROBE_TOKENS = 4
"""Tokens of the probe's prompt, which runs three times in one step while other requests wait."""


@dataclass(frozen=True, kw_only=True)
class ProbeLogits:
    """What the serving code computed for the probe's prompt, in one step; each `[T, V]`."""

    base: Tensor
    base_again: Tensor
    """Another request for the base: how far it is off is rounding."""
    adapted: Tensor


def probe_ids(vocab_size: int) -> list[int]:
    """The probe's prompt: tokens from all over the vocabulary."""
    step = max(1, vocab_size // NUM_PROBE_TOKENS)
    return [(step // 2 + number * step) % vocab_size for number in range(NUM_PROBE_TOKENS)]


def prove(revision: AdapterRevision, logits: ProbeLogits) -> float:
    """Checks that an adapter changes the probe's logits by more than rounding does.

    Returns:
        The mean over the positions of KL(base || adapted), in nats.

    Raises:
        AdapterError: If it changes nothing, or makes logits that are not finite.
    """
    if not logits.adapted.isfinite().all():
        raise AdapterError(f"{revision.path} makes logits that are not finite")
    divergence, rounding = mean_kl(logits.base, (logits.adapted, logits.base_again))
    if divergence <= rounding:
        raise AdapterError(
            f"{revision.path} changes nothing: all {revision.num_tensors} tensors landed, and the "
            f"logits are the base's (KL {divergence:.2g}, rounding alone {rounding:.2g})"
        )
    return divergence


def mean_kl(base: Tensor, others: Sequence[Tensor]) -> list[float]:
    """The mean over the positions of KL(base || other) in fp64, in nats; logits are `[T, V]`."""
    log_p = torch.log_softmax(base.double(), dim=-1)
    p = log_p.exp()
    surprise = ((log_p - torch.log_softmax(other.double(), dim=-1)) for other in others)
    # Rounding may leave a sum of zeros a little below zero.
    return [max(0.0, (p * more).sum(dim=-1).mean().item()) for more in surprise]
