"""What the machine itself gives at this moment: memory read, and matrix products.

Measured right before and right after each work, since others may use the machine too. A work takes
seconds, in which a memory that is shared gives more and less. So reads are measured for a while:
the best of a few moments is more than any work could have.
"""

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_READ_BYTES = 2**28
"""256 MiB, far larger than any cache."""
_READ_SECONDS = 0.4
_ROWS, _INPUTS, _OUTPUTS = 1024, 4096, 2048
_PRODUCT_REPEATS = 6


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All threads together."""

    read_gb_per_s: float
    """Memory reads that go on for a while, in 10⁹ bytes a second."""
    product_gflop_per_s: float
    """Matrix products, the best of several tries, 10⁹ operations a second; an addition and a
    multiplication are two."""
    product_dtype: str
    """What was multiplied, as PyTorch names it."""

    def between(self, after: "Limits") -> "Limits":
        """The mean of what was measured before something and after it."""
        return Limits(
            read_gb_per_s=(self.read_gb_per_s + after.read_gb_per_s) / 2,
            product_gflop_per_s=(self.product_gflop_per_s + after.product_gflop_per_s) / 2,
            product_dtype=self.product_dtype,
        )


def measure_limits(dtype: torch.dtype) -> Limits:
    """Measures for about a second.

    Args:
        dtype: Of the products: bf16, fp32, or int8.
    """
    return Limits(
        read_gb_per_s=read_rate(),
        product_gflop_per_s=product_rate(dtype),
        product_dtype=str(dtype).removeprefix("torch."),
    )


def read_rate() -> float:
    """Gigabytes a second that plain sums read, one after the other."""
    block = memory_block()
    num_sums, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _READ_SECONDS:
        block.sum()
        num_sums += 1
    return num_sums * block.nbytes / seconds / 1e9


def memory_block() -> Tensor:
    """Numbers to read: in no cache, and in huge pages where there are any."""
    memory = mmap.mmap(-1, _READ_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).fill_(1)


@torch.inference_mode()
def product_rate(dtype: torch.dtype) -> float:
    """10⁹ operations a second of a large matrix product, through PyTorch as it is installed."""
    product = _int8_product() if dtype == torch.int8 else _float_product(dtype)
    seconds = _best_seconds(product, _PRODUCT_REPEATS)
    return 2 * _ROWS * _INPUTS * _OUTPUTS / seconds / 1e9


def _float_product(dtype: torch.dtype) -> Callable[[], object]:
    layer = torch.nn.Linear(_INPUTS, _OUTPUTS, bias=False, dtype=dtype)
    rows = torch.randn(_ROWS, _INPUTS).to(dtype)
    return lambda: layer(rows)


def _int8_product() -> Callable[[], object]:
    weight = torch.randint(-127, 128, (_OUTPUTS, _INPUTS), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [_ROWS, _INPUTS])
    rows = torch.randint(0, 256, (_ROWS, _INPUTS), dtype=torch.uint8)
    scales, zeros = torch.ones(_OUTPUTS), torch.zeros(_OUTPUTS, dtype=torch.int64)
    after: tuple[object, ...] = (None, 1.0, 0, torch.bfloat16, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise(rows, 1.0, 128, packed, scales, zeros, *after)


def _best_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
