"""Triton kernels of a model's leaves, for CUDA devices."""

from importlib.util import find_spec


def has_triton() -> bool:
    """Whether Triton is here; PyTorch for CUDA brings it along on Linux."""
    return find_spec("triton") is not None
