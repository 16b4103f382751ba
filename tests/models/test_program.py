"""Calls written down once are made in their order, as often as the program runs."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from martlet.models.compiled.threads import can_compile
from martlet.models.linear.packed import PackedLinear
from martlet.models.norm import FusedRMSNorm

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
WIDTH, NUM_CALLS = 512, 40


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("num_rows", [1, 9, 100])
def test_each_call_sees_all_that_those_before_it_wrote(num_rows: int) -> None:
    from martlet.models.compiled.program import Program

    torch.manual_seed(0)
    linears = [nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16) for _ in range(NUM_CALLS)]
    layers = [PackedLinear(linear.requires_grad_(False)) for linear in linears]
    rows = [torch.randn(num_rows, WIDTH).bfloat16() for _ in range(NUM_CALLS + 1)]
    calls = []
    for layer, x, out in zip(layers, rows, rows[1:], strict=False):
        calls += layer.calls(x.data_ptr(), out.data_ptr(), num_rows, 0) or []
    program = Program(calls)
    assert len(calls) == NUM_CALLS
    for _ in range(10):
        rows[0].normal_()
        expected = rows[0].clone()
        for layer in layers:
            expected = layer(expected)
        for stale in rows[1:]:
            stale.fill_(float("nan"))
        program.run()
        assert torch.equal(rows[-1], expected)


def test_arguments_may_change_between_two_runs() -> None:
    from martlet.models.compiled.program import Program

    x, y, out = (torch.randn(3, WIDTH).bfloat16() for _ in range(3))
    norm = FusedRMSNorm(torch.ones(WIDTH).bfloat16(), 1e-5)
    program = Program([norm.call(x.data_ptr(), out.data_ptr(), 3, is_wide=False)])
    program.run()
    assert torch.equal(out, norm(x))
    program.arguments[0, 1] = y.data_ptr()
    program.run()
    assert torch.equal(out, norm(y))


def test_calls_that_do_not_wait_are_all_made() -> None:
    from martlet.models.compiled.program import Program

    norm = FusedRMSNorm(torch.randn(WIDTH).bfloat16(), 1e-5)
    rows = [torch.randn(20, WIDTH) for _ in range(30)]
    outs = [torch.empty_like(x, dtype=torch.bfloat16) for x in rows]
    calls = [
        norm.call(x.data_ptr(), out.data_ptr(), 20, is_wide=True)._replace(waits=False)
        for x, out in zip(rows, outs, strict=True)
    ]
    Program(calls).run()
    assert all(torch.equal(out, norm(x)) for x, out in zip(rows, outs, strict=True))


@pytest.mark.parametrize("num_rows", [1, 30])
def test_a_norm_of_sums_and_norms_of_heads(num_rows: int) -> None:
    from martlet.models.compiled.program import Program

    torch.manual_seed(0)
    norm = FusedRMSNorm(torch.randn(WIDTH).bfloat16(), 1e-5)
    x, added = torch.randn(2, num_rows, WIDTH)
    total, out = x + added, torch.empty_like(x, dtype=torch.bfloat16)
    call = norm.call_after_adding(x.data_ptr(), added.data_ptr(), out.data_ptr(), num_rows)
    Program([call]).run()
    assert torch.equal(x, total)
    assert torch.equal(out, norm(total))
    expected = F.rms_norm(total, (WIDTH,), norm.weight.float(), 1e-5)
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=0)

    heads, weight = torch.randn(num_rows, 7, 64), torch.randn(64).bfloat16()
    expected = F.rms_norm(heads[:, :4], (64,), weight.float(), 1e-5)
    rest = heads[:, 4:].clone()
    norm_of_heads = FusedRMSNorm(weight, 1e-5)
    Program([norm_of_heads.call_for_heads(heads.data_ptr(), num_rows, 4, 7 * 256)]).run()
    torch.testing.assert_close(heads[:, :4], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(heads[:, 4:], rest)
