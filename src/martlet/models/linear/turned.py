"""Inputs turned before they are rounded, so that a large one is shared out among its neighbours.

A token is rounded by its largest number, and some layers have tokens with a few that are many times
as large as the others. A Hadamard matrix mixes 128 neighbours with equal parts of each (Ashkboos et
al., arXiv:2404.00456). Its inverse is itself, divided by 128: weights that are turned once, while a
model is loaded, and tokens that are turned whenever they are rounded give the same products.
"""

from functools import cache

import torch
from torch import Tensor

from martlet.models.machine_code.kind import TURN


def can_turn(width: int) -> bool:
    """Whether inputs come in whole blocks."""
    return width % TURN == 0


def turn_weight(weight: Tensor) -> Tensor:
    """`[out, in] -> [out, in]`, in its dtype."""
    blocks = weight.reshape(-1, TURN) @ _hadamard().to(weight.dtype)
    return blocks.view(weight.shape)


def turn_tokens(x: Tensor) -> Tensor:
    """`[..., in] -> [..., in]` in fp32, as the compiled rounding does it."""
    turned: Tensor = x.float().unflatten(-1, (-1, TURN)) @ _hadamard() / TURN
    return turned.flatten(-2)


@cache
def _hadamard() -> Tensor:
    """Of 1 and -1, `[128, 128]`, by Sylvester's construction."""
    matrix = torch.ones(1, 1)
    while len(matrix) < TURN:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix
