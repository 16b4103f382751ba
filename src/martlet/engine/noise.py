"""Random numbers that depend on a seed, a position and a token, and on nothing else.

A generator with a state would make a sample depend on what was drawn before it, so on order, batch
size and neighbours. Here each number is a hash of what it is for.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
"""What the numbers of a row derive from, one a row."""

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def draw_keys(seeds: Sequence[int], positions: Sequence[int]) -> Keys:
    """One key for each pair of a seed and a position, `[M]`.

    The hash is SplitMix64's output function (Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", 2014), applied twice so that neighbouring seeds share nothing.
    """
    mask = 2**64 - 1
    return _derive(
        _mix(np.array([seed & mask for seed in seeds], dtype=np.uint64) + _GOLDEN_GAMMA),
        np.array(positions, dtype=np.uint64),
    )


def waiting_times(keys: Keys, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Exponentially distributed numbers with mean 1, one for each pair of a key and an id.

    Args:
        keys: `[M, 1]`, or of any shape that broadcasts with `ids`.
        ids: `[M, K]` or `[1, K]`.
    """
    bits = _derive(keys, ids.astype(np.uint64))
    # Strictly between 0 and 1: no waiting time is infinite, and none is 0.
    uniforms = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    times: npt.NDArray[np.float64] = -np.log(uniforms)
    return times


def _derive(keys: Keys, ids: npt.NDArray[np.uint64]) -> Keys:
    with np.errstate(over="ignore"):
        return _mix(keys + (ids + np.uint64(1)) * _GOLDEN_GAMMA)


def _mix(states: Keys) -> Keys:
    with np.errstate(over="ignore"):
        states = (states ^ (states >> np.uint64(30))) * _MIX_1
        states = (states ^ (states >> np.uint64(27))) * _MIX_2
    return states ^ (states >> np.uint64(31))
