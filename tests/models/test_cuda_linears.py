"""Rounded layers as a CUDA device computes them, each beside its plain form."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from martlet.models.linear.fp8 import ScaledFp8Linear
from martlet.models.linear.int4_cuda import CudaInt4Linear, fits_int4_cuda
from martlet.models.linear.int8_cuda import CudaInt8Linear
from martlet.models.linear.rounded import to_fp8, to_int4, to_int8
from martlet.models.linear.stored import PackQuantized
from martlet.models.linear.words import pack_words, unpack_words

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16]


def make_linear(num_in: int, num_out: int, dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(num_in, num_out, dtype=dtype)
    return linear.to(DEVICE).requires_grad_(False)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the worst row; rows may be of very different size."""
    error = (got.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1)
    return error.max().item()


def make_rows(num_rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    sizes = torch.logspace(-3, 3, num_rows)[:, None]
    return (torch.randn(1, num_rows, width) * sizes).to(DEVICE, dtype)


@pytest.mark.parametrize("num_rows", [1, 17, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8(dtype: torch.dtype, num_rows: int) -> None:
    stored = to_int8(make_linear(96, 80, dtype))
    x = make_rows(num_rows, 96, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert relative_error(CudaInt8Linear(stored)(x), stored(x)) < tolerance


@pytest.mark.parametrize("num_rows", [1, 17, 70])
def test_fp8(num_rows: int) -> None:
    linear = make_linear(96, 80, torch.bfloat16)
    stored = to_fp8(linear)
    x = make_rows(num_rows, 96, torch.bfloat16)
    assert relative_error(ScaledFp8Linear(stored)(x), stored(x)) < 1e-2
    assert relative_error(stored(x), linear(x)) < 0.1


@pytest.mark.skipif(not find_spec("triton"), reason="no Triton")
@pytest.mark.parametrize("num_rows", [1, 17, 130])
@pytest.mark.parametrize(("num_in", "num_out", "group_size"), [(256, 40, 32), (384, 96, 128)])
def test_int4_with_zeros(num_in: int, num_out: int, group_size: int, num_rows: int) -> None:
    linear = make_linear(num_in, num_out, torch.float32)
    groups = num_in // group_size
    stored = PackQuantized(linear, num_groups=groups, has_zeros=True, has_group_index=False)
    values = torch.randint(0, 16, (num_out, num_in))
    zeros = torch.randint(0, 16, (num_out, groups))
    parts = {
        "weight_packed": pack_words(values),
        "weight_zero_point": pack_words(zeros.T.contiguous()).T.contiguous(),
        "weight_scale": torch.rand(num_out, groups) / 10,
    }
    for name, tensor in parts.items():
        setattr(stored, name, nn.Parameter(tensor.to(DEVICE), requires_grad=False))
    x = make_rows(num_rows, num_in, torch.float32)
    assert relative_error(CudaInt4Linear(stored, torch.float32)(x), stored(x)) < 1e-5


def test_int4_rounded_at_load() -> None:
    linear = make_linear(64, 48, torch.float32)
    stored = to_int4(linear)
    assert fits_int4_cuda(stored)
    x = make_rows(5, 64, torch.float32)
    assert relative_error(stored(x), linear(x)) < 0.3


def test_words_keep_all_sixteen_values() -> None:
    values = torch.arange(16).repeat(3, 2)
    assert torch.equal(unpack_words(pack_words(values)), values.int())
