"""Functions that numba compiles: for which models, and on the threads that PyTorch has."""

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor

from martlet.models import openmp
from martlet.models.openmp import Call, has_threads

LEAST_WIDTH = 512
"""Of a model that anything is compiled for while it is loaded: compiling takes longer than narrower
ones may run. For them it waits until there is a crowd."""
WIDTH = 32
"""Of heads, rows and inputs that compiled functions take: a multiple of it."""
_crowd_came = Event()
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512bf16", "avx512vnni")


@cache
def can_compile() -> bool:
    """Whether numba is installed, the CPU multiplies pairs of bf16 and of whole
    numbers, and threads can be had."""
    if importlib.util.find_spec("numba") is None or not has_threads():
        return False
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return all(features.get(name, False) for name in _INSTRUCTIONS)


@cache
def has_tiles() -> bool:
    """Whether the CPU multiplies tiles of bf16 (AMX), as PyTorch does with many rows."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("amx-bf16", False))


def is_compiled_for(tensor: Tensor, width: int) -> bool:
    """Whether what is computed with a tensor, in a model of that width, is to be compiled."""
    is_bf16_on_cpu = tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"
    return is_bf16_on_cpu and is_wide_enough(width) and width % WIDTH == 0 and can_compile()


def keeps_numbers(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether keys and values of a dtype may be kept as whole numbers with scales."""
    return dtype == torch.bfloat16 and device.type == "cpu" and can_compile()


def is_wide_enough(width: int) -> bool:
    """Whether compiling pays for a model, or a product, of that width."""
    return width >= LEAST_WIDTH or _crowd_came.is_set()


def compile_for_crowds() -> None:
    """Compiles for the narrow models of this process too, as many requests came to one of them."""
    if _crowd_came.is_set() or not can_compile():
        return
    from martlet.models.compiled import attention, elementwise, norms, number_block, product

    attention.attend(is_rounded=False)
    elementwise.silu_times()
    norms.rms_norm(is_wide=False)  # of heads, and of layers that transformers wrote
    norms.rms_norm(is_wide=True)
    number_block.write_tokens(is_rounded=False)
    product.multiply_rows()
    _crowd_came.set()


def compile_all() -> None:
    """Compiles what a model will need, or takes it from the cache of an earlier process."""
    from martlet.models.compiled import (
        attention,
        compact_product,
        elementwise,
        gather,
        largest,
        norms,
        number_block,
        product,
        program,
        rotary,
        segments,
    )

    attention.attend(is_rounded=False)
    elementwise.silu_times()
    gather.gather_rows()
    largest.find_largest()
    norms.rms_norm(is_wide=True)
    norms.add_rms_norm()
    norms.norm_heads()
    number_block.write_tokens(is_rounded=False)
    if has_tiles():
        product.multiply_rows()
    else:
        compact_product.multiply_compact()
    program.make_calls()
    rotary.rotate()
    rotary.rotate_into_pool(is_rounded=False)
    segments.add_segments()


def compile_for_rounded_pools() -> None:
    """Compiles what reads and writes keys and values in eight bits."""
    from martlet.models.compiled import attention, number_block, rotary

    attention.attend(is_rounded=True)
    number_block.write_tokens(is_rounded=True)
    rotary.rotate_into_pool(is_rounded=True)


@cache
def version() -> int:
    """Of the sources of all compiled functions.

    numba keeps what it compiled beside its source, and compiles anew when that file has changed. It
    does not know of the other files that a function is made from. But it does look at the values
    that a function refers to; so each of them refers to this one.
    """
    folder = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return int.from_bytes(hashlib.sha256(sources).digest()[:7])


def run(function: Any, arguments: Sequence[int], *, alone: bool = False) -> None:
    """Calls a function that numba compiled once on each of PyTorch's threads, and waits for all.

    Args:
        function: Made by `vectors.compiled`.
        arguments: As in `Call`.
        alone: Whether to call it on this thread only, where there is nothing to share.
    """
    openmp.run(Call(function.address, tuple(arguments)), alone=alone)
