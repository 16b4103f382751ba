"""Calls written down once are made in their order, as often as the program runs."""

import pytest
import torch
import torch.nn.functional as F

from martlet.models.compiled.threads import can_compile
from martlet.models.norm import FusedRMSNorm

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
WIDTH, NUM_CALLS = 512, 40


@pytest.mark.parametrize("num_rows", [1, 9, 100])
def test_each_call_sees_what_those_before_it_wrote(num_rows: int) -> None:
    from martlet.models.compiled.program import Program

    torch.manual_seed(0)
    norms = [FusedRMSNorm(torch.randn(WIDTH).bfloat16(), 1e-5) for _ in range(NUM_CALLS)]
    rows = [torch.randn(num_rows, WIDTH).bfloat16() for _ in range(NUM_CALLS + 1)]
    calls = [
        norm.call(x.data_ptr(), out.data_ptr(), num_rows)
        for norm, x, out in zip(norms, rows, rows[1:], strict=False)
    ]
    program = Program(calls)
    for _ in range(3):
        rows[0].normal_()
        expected = rows[0].clone()
        for norm in norms:
            expected = norm(expected)
        program.run()
        assert torch.equal(rows[-1], expected)


def test_arguments_may_change_between_two_runs() -> None:
    from martlet.models.compiled.program import Program

    x, y, out = (torch.randn(3, WIDTH).bfloat16() for _ in range(3))
    norm = FusedRMSNorm(torch.ones(WIDTH).bfloat16(), 1e-5)
    program = Program([norm.call(x.data_ptr(), out.data_ptr(), 3)])
    program.run()
    assert torch.equal(out, norm(x))
    program.arguments[0, 1] = y.data_ptr()
    program.run()
    assert torch.equal(out, norm(y))


def test_calls_that_do_not_wait_are_all_made() -> None:
    from martlet.models.compiled.program import Program

    norm = FusedRMSNorm(torch.randn(WIDTH).bfloat16(), 1e-5)
    rows = [torch.randn(20, WIDTH).bfloat16() for _ in range(30)]
    outs = [torch.empty_like(x) for x in rows]
    calls = [
        norm.call(x.data_ptr(), out.data_ptr(), 20)._replace(waits=False)
        for x, out in zip(rows, outs, strict=True)
    ]
    Program(calls).run()
    assert all(torch.equal(out, norm(x)) for x, out in zip(rows, outs, strict=True))


@pytest.mark.parametrize("num_rows", [1, 30])
def test_a_norm_of_sums_and_norms_of_heads(num_rows: int) -> None:
    from martlet.models.compiled.program import Program

    torch.manual_seed(0)
    norm = FusedRMSNorm(torch.randn(WIDTH).bfloat16(), 1e-5)
    x, added = (torch.randn(num_rows, WIDTH).bfloat16() for _ in range(2))
    total, out = x + added, torch.empty_like(x)
    call = norm.call_after_adding(x.data_ptr(), added.data_ptr(), out.data_ptr(), num_rows)
    Program([call]).run()
    assert torch.equal(x, total)
    assert torch.equal(out, norm(total))

    heads, weight = torch.randn(num_rows, 7, 64).bfloat16(), torch.randn(64).bfloat16()
    expected = F.rms_norm(heads[:, :4].float(), (64,), weight.float(), 1e-5)
    rest = heads[:, 4:].clone()
    norm_of_heads = FusedRMSNorm(weight, 1e-5)
    Program([norm_of_heads.call_for_heads(heads.data_ptr(), num_rows, 4, 7 * 128)]).run()
    torch.testing.assert_close(heads[:, :4].float(), expected, rtol=1e-2, atol=0)
    assert torch.equal(heads[:, 4:], rest)
