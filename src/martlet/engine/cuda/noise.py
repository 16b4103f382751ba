"""The random numbers of `engine/noise`, computed where the logits are.

The same bits from the same seeds: only the logarithm may round otherwise. Whole numbers of 64 bits
wrap around on every device, whether they have a sign or not.
"""

import numpy as np
import torch
from torch import Tensor

from martlet.engine.noise import Keys

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def waiting_times(keys: Keys, ids: Tensor) -> Tensor:
    """Exponentially distributed numbers with mean 1, one for each pair of a key and an id.

    Args:
        keys: `[M]`.
        ids: `[M, K]` or `[1, K]`, on the device.

    Returns:
        `[M, K]` in fp64, on the device.
    """
    starts = torch.from_numpy(keys.view(np.int64)).to(ids.device)[:, None]
    bits = _mix(starts + (ids + 1) * _GOLDEN_GAMMA)
    # Strictly between 0 and 1: no waiting time is infinite, and none is 0.
    uniforms = (_shifted(bits, 12).double() + 0.5) * 2.0**-52
    return -torch.log(uniforms)


def _mix(states: Tensor) -> Tensor:
    states = (states ^ _shifted(states, 30)) * _MIX_1
    states = (states ^ _shifted(states, 27)) * _MIX_2
    return states ^ _shifted(states, 31)


def _shifted(states: Tensor, count: int) -> Tensor:
    """To the right, with zeros from the left, as if there were no sign."""
    return (states >> count) & ((1 << (64 - count)) - 1)
