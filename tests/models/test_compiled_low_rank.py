"""The compiled products of adapters add, to each row, what its own adapter adds."""

import pytest
import torch
from torch import Tensor

from martlet.models.compiled.threads import can_compile
from martlet.models.linear.compiled_low_rank import CompiledLowRank, RankPanels

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")

NUM_IN, NUM_OUT = 544, 192
RANKS = (4, 16, 0, 33)
"""Of the adapters; one adds nothing."""


def pairs() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [
        (torch.randn(rank, NUM_IN).bfloat16() / NUM_IN**0.5, torch.randn(rank, NUM_OUT).bfloat16())
        for rank in RANKS
    ]


def compiled() -> CompiledLowRank:
    return CompiledLowRank([RankPanels.of(down, up) if len(down) else None for down, up in pairs()])


def add(out: Tensor, x: Tensor, slots: Tensor) -> None:
    """To each row by its place among the adapters, -1 for none."""
    rows = torch.argsort(slots, stable=True)[int((slots < 0).sum()) :]
    ends = torch.bincount(slots[slots >= 0], minlength=len(RANKS)).cumsum(0).int()
    compiled().add_(out, x, rows, ends)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_rows", [1, 7, 12, 100])
def test_rows_of_many_adapters(num_rows: int, dtype: torch.dtype) -> None:
    slots = torch.randint(-1, len(RANKS), (num_rows,))
    x, wide = torch.randn(num_rows, NUM_IN).bfloat16(), torch.randn(num_rows, 320, dtype=dtype)
    before, out = wide.clone(), wide[:, 64:256]  # the columns of one of several joined layers
    expected = out.float().clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            down, up = pairs()[slot]
            expected[row] += (x[row] @ down.T).float() @ up.float()
    add(out, x, slots)
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=3e-2)
    assert torch.equal(out[slots < 0], before[slots < 0, 64:256])
    assert torch.equal(wide[:, :64], before[:, :64])
    assert torch.equal(wide[:, 256:], before[:, 256:])


def test_a_row_comes_out_the_same_beside_others() -> None:
    slots = torch.randint(-1, len(RANKS), (61,))
    x, out = torch.randn(61, NUM_IN).bfloat16(), torch.randn(61, NUM_OUT).bfloat16()
    alone = out.clone()
    for row in range(61):
        add(alone[row : row + 1], x[row : row + 1], slots[row : row + 1])
    add(out, x, slots)
    assert torch.equal(out, alone)


@pytest.mark.parametrize(("num_in", "num_out"), [(512, 96), (256, 128)])
def test_matrices_that_nothing_is_compiled_for(num_in: int, num_out: int) -> None:
    down, up = torch.randn(4, num_in).bfloat16(), torch.randn(4, num_out).bfloat16()
    assert RankPanels.of(down, up) is None
