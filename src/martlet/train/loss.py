"""The loss of the tokens that are to be learned, without a second copy of their logits."""

from typing import Any, cast

import torch
from torch import Tensor

VALUES_AT_ONCE = 2**23
"""Logits made fp32 at a time: 32 MiB."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, in nats.

    The backward pass writes the gradient into the logits' own memory, so they must not be used
    afterwards. `torch.nn.functional.cross_entropy` would hold two more copies in fp32, of 600 KB a
    token each where the vocabulary is large.

    Args:
        logits: `[N, V]`.
        targets: `[N]`.

    Returns:
        `[N]` in fp32.
    """
    return cast(Tensor, _TokenLosses.apply(logits, targets))  # type: ignore[no-untyped-call]


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normalizers = torch.cat([part.float().logsumexp(dim=1) for part in _parts(logits)])
        chosen = logits.gather(1, targets[:, None])[:, 0].float()
        ctx.save_for_backward(targets, normalizers)
        # Kept aside: autograd would refuse to hand out what backward overwrites.
        ctx.logits = logits.detach()
        return normalizers - chosen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        targets, normalizers = ctx.saved_tensors
        logits, scale = ctx.logits, gradients[0][:, None]
        del ctx.logits
        first = 0
        for part in _parts(logits):
            rows = slice(first, first + len(part))
            probabilities = part.float().sub_(normalizers[rows, None]).exp_()
            probabilities.scatter_add_(
                1, targets[rows, None], probabilities.new_full((len(part), 1), -1.0)
            )
            part.copy_(probabilities.mul_(scale[rows]))
            first = rows.stop
        return logits, None


def _parts(logits: Tensor) -> tuple[Tensor, ...]:
    num_rows = max(1, VALUES_AT_ONCE // logits.shape[1])
    return cast(tuple[Tensor, ...], logits.split(num_rows))
