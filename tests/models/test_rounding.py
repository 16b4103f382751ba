"""Weights rounded to four bits in two levels."""

import pytest
import torch

from martlet.models.compiled.threads import can_compile
from martlet.models.linear.rounded import to_int4_steps
from martlet.models.linear.rounding import (
    FourBits,
    round_groups,
    round_in_two_levels,
    round_to_steps,
)


def plain(weight: FourBits) -> torch.Tensor:
    """What a rounded weight stands for."""
    size = weight.values.shape[1] // weight.multipliers.shape[1]
    num_parts = weight.multipliers.shape[1] // weight.scales.shape[1]
    steps = weight.scales.repeat_interleave(num_parts, dim=1) * weight.multipliers
    groups = weight.values.unflatten(1, (-1, size)).float() - weight.zeros[..., None]
    stands_for: torch.Tensor = (groups * steps[..., None]).flatten(1)
    return stands_for


def test_it_is_closer_than_a_scale_for_each_group_and_kept_in_its_ranges() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256) * torch.rand(64, 8).add(0.2).repeat_interleave(32, dim=1)
    rounded = round_in_two_levels(weight, num_scales=2, num_groups=8)
    values, scales = round_groups(weight, 8)
    groups = values.unflatten(1, (8, 32)) * scales[..., None]
    assert (plain(rounded) - weight).norm() < (groups.flatten(1) - weight).norm()
    assert rounded.values.max() == 15
    assert rounded.values.min() == 0
    assert rounded.multipliers.min() >= 1
    assert rounded.multipliers.max() <= 15
    assert set(rounded.zeros.unique().tolist()) == {7, 8}
    assert torch.equal(rounded.scales, rounded.scales.bfloat16().float())


def test_the_largest_weight_of_a_group_is_kept_whatever_its_sign() -> None:
    weight = torch.zeros(2, 64)
    weight[0, 3], weight[1, 3] = 8.0, -8.0
    rounded = round_in_two_levels(weight, num_scales=1, num_groups=2)
    torch.testing.assert_close(plain(rounded), weight, rtol=5e-3, atol=0)


def test_nothing_but_zeros_stays_zero() -> None:
    rounded = round_in_two_levels(torch.zeros(3, 64), num_scales=1, num_groups=2)
    assert not plain(rounded).any()


def test_steps_are_closer_than_two_levels_and_products_of_theirs_are_bytes() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 256) * torch.rand(64, 8).add(0.2).repeat_interleave(32, dim=1)
    steps = round_to_steps(weight, num_groups=16)
    levels = round_in_two_levels(weight, num_scales=2, num_groups=8)
    assert (steps.dequantized() - weight).norm() < (plain(levels) - weight).norm()
    bytes_ = (steps.dequantized() / steps.scales).round()
    torch.testing.assert_close(bytes_ * steps.scales, steps.dequantized())
    assert bytes_.abs().amax(dim=1).eq(120).all()
    assert steps.values.max() == 15
    assert len(steps.codes.unique()) > 8


def test_with_steps_the_largest_weight_is_kept_whatever_its_sign_and_zeros_stay_zero() -> None:
    weight = torch.zeros(3, 64)
    weight[0, 3], weight[1, 3] = 8.0, -8.0
    torch.testing.assert_close(round_to_steps(weight, num_groups=4).dequantized(), weight)


@pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
def test_steps_are_compiled_to_the_same_numbers() -> None:
    torch.manual_seed(0)
    sizes = torch.rand(70, 64).mul(4).exp().repeat_interleave(16, dim=1)
    linear = torch.nn.Linear(1024, 70, dtype=torch.bfloat16)
    linear.weight = torch.nn.Parameter((torch.randn(70, 1024) * sizes).bfloat16())
    with torch.no_grad():
        linear.weight[3] = 0
        linear.weight[4, 16:48] = 0
    ours = to_int4_steps(linear).rounded
    plain = round_to_steps(linear.weight.detach(), num_groups=64)
    for name in ("values", "codes", "scales"):
        assert torch.equal(getattr(ours, name), getattr(plain, name)), name
