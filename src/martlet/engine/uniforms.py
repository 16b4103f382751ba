"""Uniform numbers that depend on a seed and a position, and on nothing else.

A generator with a state would make a sample depend on what was drawn before it, so on order, batch
size and neighbours. Here the number for a token is a hash of (seed, position).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair of a seed and a position.

    The hash is SplitMix64's output function (Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", 2014), applied twice so that neighbouring seeds share nothing.
    """
    mask = 2**64 - 1
    states = np.array([seed & mask for seed in seeds], dtype=np.uint64)
    steps = np.array(positions, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(states + _GOLDEN_GAMMA) + (steps + np.uint64(1)) * _GOLDEN_GAMMA)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(states: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    states = (states ^ (states >> np.uint64(30))) * _MIX_1
    states = (states ^ (states >> np.uint64(27))) * _MIX_2
    return states ^ (states >> np.uint64(31))
