"""E4M3 from whole numbers, in Triton: the same bits on devices that know the type and others.

The plain version is `fp8_cache.to_fp8`.
"""

import triton
import triton.language as tl

from martlet.engine.cuda import fp8_cache

LARGEST = tl.constexpr(fp8_cache.LARGEST)
SMALLEST = tl.constexpr(fp8_cache.SMALLEST)
HALF_BIAS = tl.constexpr(256.0)
"""The exponents of fp16 count from 8 more than those of E4M3."""


@triton.jit
def to_e4m3(
    x,  # [D]
):
    """The bits of a row, `[D]` in uint8, and its scale."""
    x = x.to(tl.float32)
    largest = tl.max(tl.abs(x))
    inverse = tl.div_rn(LARGEST, tl.where(largest > SMALLEST, largest, 1.0))
    bits = _round(x * inverse)
    # A maximum passes over NaN; the bits cannot tell it, so the scale does.
    return bits, largest * (1 / LARGEST) + tl.sum(x * 0)


@triton.jit
def _round(
    x,  # no larger than LARGEST
):
    """The nearest of E4M3, of two as near the even one."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Three bits of the mantissa stay; what is carried out of them raises the exponent.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6, steps of 2^-9: those of fp32 from 2^14 on.
    below = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) & 0xF
    code = tl.where(magnitude < (121 << 23), below, normal)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def from_e4m3(
    bits,  # in uint8
):
    """What the bits say, divided by HALF_BIAS, in fp16: exactly."""
    bits = bits.to(tl.int16)
    return (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
