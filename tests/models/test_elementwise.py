"""Compiled passes over rows compute what PyTorch does in several."""

import pytest
import torch
import torch.nn.functional as F

from martlet.models.compiled.threads import can_compile, is_compiled_for, run
from martlet.models.norm import FusedRMSNorm

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


@pytest.mark.parametrize("num_rows", [1, 7, 100])
def test_the_norm_of_rows(num_rows: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(544).bfloat16()
    norm = FusedRMSNorm(weight, 1e-5)
    x = torch.randn(1, num_rows, 544).bfloat16() * 3
    expected = F.rms_norm(x.float(), (544,), weight.float(), 1e-5)
    assert is_compiled_for(weight, 544)
    torch.testing.assert_close(norm(x).float(), expected, rtol=1e-2, atol=0)
    apart = x.transpose(0, 1).expand(-1, 2, -1)[:, 0]
    torch.testing.assert_close(norm(apart).float(), expected[0], rtol=1e-2, atol=0)
    x[0, -1, 5] = float("nan")
    assert norm(x).isnan().any(dim=-1).sum() == 1


@pytest.mark.parametrize("num_rows", [1, 7, 100])
def test_silu_with_its_gate(num_rows: int) -> None:
    from martlet.models.compiled.elementwise import silu_times

    torch.manual_seed(0)
    x, y = (torch.randn(num_rows, 512) * 5 for _ in range(2))
    x[0, :6] = torch.tensor([-400.0, 400.0, 0.0, float("inf"), float("nan"), -88.0])
    out = torch.empty_like(x, dtype=torch.bfloat16)
    run(silu_times(), (x.data_ptr(), y.data_ptr(), out.data_ptr(), num_rows, 512))
    expected = F.silu(x) * y
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-20, equal_nan=True)
