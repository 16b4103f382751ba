"""The proof that an adapter does something: its logits are compared with the base's, at load."""

from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.errors import AdapterError
from martlet.lora.revision import AdapterRevision

NUM_PROBE_TOKENS = 9
"""Tokens of the probe's prompt, which runs three times in one step. Long enough to be computed by
themselves, so that the stack that running requests use stays as it is; and 27 in all, which is no
model's number of heads: a leaf that sees heads where tokens are expected is found out."""


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
    divergence = mean_kl(logits.base, logits.adapted)
    rounding = mean_kl(logits.base, logits.base_again)
    if divergence <= rounding:
        raise AdapterError(
            f"{revision.path} changes nothing: all {revision.num_tensors} tensors landed, and the "
            f"logits are the base's (KL {divergence:.2g}, rounding alone {rounding:.2g})"
        )
    return divergence


def mean_kl(base: Tensor, other: Tensor) -> float:
    """The mean over the positions of KL(base || other) in fp64, in nats; logits are `[T, V]`."""
    log_p, log_q = (torch.log_softmax(logits.double(), dim=-1) for logits in (base, other))
    # Rounding may leave a sum of zeros a little below zero.
    return max(0.0, (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().item())
