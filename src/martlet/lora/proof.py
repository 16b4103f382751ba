"""The proof that an adapter does something: its logits are compared with the base's, at load."""

from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.errors import AdapterError
from martlet.lora.revision import AdapterRevision

NUM_PROBE_TOKENS = 4
"""Tokens of the probe's prompt, which is computed while other requests wait."""


@dataclass(frozen=True, kw_only=True)
class BaseProbe:
    """What the base makes of the probe's prompt; the same for all of its adapters."""

    log_p: Tensor
    """Log-probabilities, `[T, V]` in fp64."""
    rounding: float
    """How far the base is from itself when it is computed again, in nats."""

    @classmethod
    def of(cls, logits: Tensor, logits_again: Tensor) -> "BaseProbe":
        """From the base's logits, computed twice; each `[T, V]`."""
        log_p = torch.log_softmax(logits.double(), dim=-1)
        return cls(log_p=log_p, rounding=mean_kl(log_p, logits_again))


def probe_ids(vocab_size: int) -> list[int]:
    """The probe's prompt: tokens from all over the vocabulary."""
    step = max(1, vocab_size // NUM_PROBE_TOKENS)
    return [(step // 2 + number * step) % vocab_size for number in range(NUM_PROBE_TOKENS)]


def prove(revision: AdapterRevision, logits: Tensor, base: BaseProbe) -> float:
    """Checks that an adapter changes the probe's logits by more than rounding does.

    Args:
        revision: The adapter.
        logits: What the serving code computed with it for the probe's prompt, `[T, V]`.
        base: What it computed without.

    Returns:
        The mean over the positions of KL(base || adapted), in nats.

    Raises:
        AdapterError: If it changes nothing, or makes logits that are not finite.
    """
    if not logits.isfinite().all():
        raise AdapterError(f"{revision.path} makes logits that are not finite")
    divergence = mean_kl(base.log_p, logits)
    if divergence <= base.rounding:
        raise AdapterError(
            f"{revision.path} changes nothing: all {revision.num_tensors} tensors landed, and the "
            f"logits are the base's (KL {divergence:.2g}, rounding alone {base.rounding:.2g})"
        )
    return divergence


def mean_kl(log_p: Tensor, logits: Tensor) -> float:
    """The mean over the positions of KL(p || softmax(logits)) in fp64, in nats; all `[T, V]`."""
    surprise = log_p - torch.log_softmax(logits.double(), dim=-1)
    # Rounding may leave a sum of zeros a little below zero.
    return max(0.0, (log_p.exp() * surprise).sum(dim=-1).mean().item())
