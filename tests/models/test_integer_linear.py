"""Layers whose products are compiled: as the plain form computes, and each row by itself."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from martlet.models.compiled.threads import is_compiled_for
from martlet.models.compiled.writing import Writing, writing
from martlet.models.gated_mlp import GatedMLP
from martlet.models.linear.fastest import fastest_int4, fastest_int8
from martlet.models.linear.int4 import Int4Linear
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear, can_compute
from martlet.models.linear.packed import can_pack
from martlet.models.linear.panels import lay_out
from martlet.models.linear.rounded import (
    fits_compiled_ranges,
    to_int4,
    to_int4_steps,
    to_int8,
    to_int8_panels,
)
from martlet.models.linear.stored import PackQuantized, SteppedInt4, StoredInt4, StoredInt8
from martlet.models.linear.turned import can_turn
from martlet.models.machine_code.support import can_compile, looks_up_bytes

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled for this CPU")
ROUNDED: dict[str, Callable[[nn.Linear], StoredInt8 | StoredInt4 | SteppedInt4]] = {
    "int8": to_int8,
    "int4 with steps": to_int4_steps,
    "int4 with scales": to_int4,
    "int8 turned": lambda linear: to_int8(linear, is_turned=can_turn(linear.in_features)),
    "int8 with zeros": lambda linear: to_int8(linear, has_zeros=True),
    "int4 turned": lambda linear: to_int4_steps(linear, is_turned=can_turn(linear.in_features)),
}
SHAPES = [(80, 96), (100, 64), (96, 2048), (1152, 896), (5000, 128)]
"""Outputs and inputs: less than a panel, a part of one at the end, tokens with more than one scale
in four bits, and weights laid out in parts."""


def plain(
    kind: str,
    num_outputs: int,
    width: int,
    *,
    bias: bool,
    dtype: torch.dtype = torch.bfloat16,
) -> StoredInt8 | StoredInt4 | SteppedInt4:
    torch.manual_seed(0)
    linear = nn.Linear(width, num_outputs, bias=bias, dtype=dtype).requires_grad_(False)
    return ROUNDED[kind](linear)


def rows_of_all_sizes(num_rows: int, width: int) -> torch.Tensor:
    """Each some decades larger than the one before; the last one is zero."""
    rows = torch.randn(1, num_rows, width) * torch.logspace(-4, 4, num_rows)[:, None]
    rows[:, -1] *= num_rows == 1
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ROUNDED)
def test_the_compiled_layer_computes_what_the_plain_one_does(
    kind: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    stored = plain(kind, *shape, bias=shape[0] > 100, dtype=dtype)
    layer = IntegerLinear.of(stored)
    # Eight bits round tokens alike in both; against tokens as they are, rounding them shows.
    tolerance = 0.015 if "int4" in kind or dtype == torch.bfloat16 else 1e-3
    for num_rows in (1, 2, 3, 7, 16, 400):
        x = rows_of_all_sizes(num_rows, shape[1]).to(dtype)
        expected, got = stored(x), layer(x)
        assert got.dtype == dtype
        error = (got.double() - expected.double()).norm(dim=-1)
        assert (error <= tolerance * expected.double().norm(dim=-1) + 1e-40).all()


@pytest.mark.parametrize("kind", ROUNDED)
def test_for_who_adds_to_them_outputs_are_not_rounded(kind: str) -> None:
    layer = IntegerLinear.of(plain(kind, 100, 2048, bias=True))
    for num_rows in (1, 400):
        x = rows_of_all_sizes(num_rows, 2048).bfloat16()
        layer.out_dtype = torch.bfloat16
        rounded = layer(x)
        layer.out_dtype = torch.float32
        exact = layer(x)
        assert exact.dtype == torch.float32
        assert not torch.equal(exact, rounded.float())
        assert torch.equal(exact.bfloat16(), rounded)


@pytest.mark.parametrize("num_outputs", [8192, 8176])
def test_what_is_too_large_for_a_cache_is_written_past_it(num_outputs: int) -> None:
    layer = IntegerLinear.of(plain("int8", num_outputs, 128, bias=True))
    layer.out_dtype = torch.float32
    x = torch.randn(300, 128).bfloat16()
    out = layer(x)
    assert writing(torch.float32, out.data_ptr(), 300, num_outputs) == Writing.PAST_CACHES
    assert torch.equal(out, torch.cat([layer(row[None]) for row in x]))


@pytest.mark.parametrize("width", [2048, 4864])
@pytest.mark.parametrize("kind", ROUNDED)
def test_a_row_comes_out_the_same_to_the_last_bit_alone_and_in_any_crowd(
    kind: str, width: int
) -> None:
    # Of the wider ones, not all groups of four bits go through the rows together.
    layer = IntegerLinear.of(plain(kind, 96, width, bias=True))
    x = rows_of_all_sizes(400, width).bfloat16()
    crowd = layer(x)
    for size in (1, 3, 16, 385):
        parts = [layer(rows) for rows in x.split(size, dim=1)]
        assert torch.equal(torch.cat(parts, dim=1), crowd)


def test_the_largest_sums_that_four_bits_can_have_are_right_for_a_row_alone() -> None:
    linear = nn.Linear(896, 128, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    linear.weight.copy_(torch.ones(128, 896))
    linear.weight[64:] *= -1
    stored = to_int4_steps(linear)
    assert {0, 15} == set(stored.rounded.values.unique().tolist())
    layer, x = IntegerLinear.of(stored), torch.ones(896, dtype=torch.bfloat16)
    x[448:] *= -1
    for row in (x, -x, x.abs(), -x.abs()):
        alone, crowd = layer(row[None]), layer(row.expand(3, -1))
        assert torch.equal(alone.expand(3, -1), crowd)
        torch.testing.assert_close(alone, stored(row[None]), atol=4.0, rtol=0.01)


def test_it_does_not_matter_how_many_threads_share_the_work() -> None:
    layer = IntegerLinear.of(plain("int4 with steps", 1152, 896, bias=False))
    x = torch.randn(40, 896)
    num_threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(layer(x))
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.skipif(not looks_up_bytes(), reason="this CPU multiplies bytes sooner")
def test_products_that_are_looked_up_are_those_that_are_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = IntegerLinear.of(plain("int4 with steps", 1152, 896, bias=False))
    x = torch.randn(40, 896)
    looked_up = layer(x)
    monkeypatch.setattr("martlet.models.linear.integer.looks_up_bytes", lambda: False)
    assert torch.equal(
        IntegerLinear.of(plain("int4 with steps", 1152, 896, bias=False))(x), looked_up
    )


@pytest.mark.skipif(
    not is_compiled_for(torch.empty(0, dtype=torch.bfloat16), 1120),
    reason="the pass of its own is not compiled for this CPU",
)
@pytest.mark.parametrize(("num_outputs", "width"), [(1120, 2048), (1152, 896)])
@pytest.mark.parametrize("kind", ROUNDED)
def test_a_gate_in_the_product_gives_the_bits_of_a_pass_of_its_own(
    kind: str, num_outputs: int, width: int
) -> None:
    mlp = nn.Module()
    for name, (inputs, outputs) in {
        "gate_proj": (width, num_outputs),
        "up_proj": (width, num_outputs),
        "down_proj": (num_outputs, width),
    }.items():
        linear = nn.Linear(inputs, outputs, bias=name != "down_proj", dtype=torch.bfloat16)
        layer = IntegerLinear.of(ROUNDED[kind](linear.requires_grad_(False)))
        setattr(mlp, name, layer)
    mlp.act_fn = nn.SiLU()
    fused, gate, up = GatedMLP(mlp), mlp.gate_proj, mlp.up_proj
    fused.widen()
    assert isinstance(gate, IntegerLinear)
    assert gate.is_like(up)
    assert not gate.is_like(mlp.down_proj)
    for num_rows in (37, 70, 400):
        x = rows_of_all_sizes(num_rows, width).bfloat16()
        expected = fused._activated(gate(x), up(x), x)
        assert torch.equal(gate.gated(up, gate.rounded(x)), expected)
        assert torch.equal(fused(x), mlp.down_proj(expected))


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_poisoned_row_stays_poisoned_and_alone(kind: str, value: float) -> None:
    layer = IntegerLinear.of(plain(kind, 80, 64, bias=True))
    x = torch.randn(5, 64).bfloat16()
    clean = layer(x)
    x[3, 17] = value
    got = layer(x)
    assert not got[3].isfinite().any()
    others = [0, 1, 2, 4]
    assert torch.equal(got[others], clean[others])


def test_four_bits_with_zeros_of_their_own() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 96, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    stored = PackQuantized(linear, num_groups=2, has_zeros=True, has_group_index=False)
    words = torch.iinfo(torch.int32)

    def filled(like: nn.Parameter) -> nn.Parameter:
        bits = torch.randint(words.min, words.max, like.shape, dtype=torch.int32)
        return nn.Parameter(bits, requires_grad=False)

    assert stored.weight_zero_point is not None
    stored.weight_packed = filled(stored.weight_packed)
    stored.weight_zero_point = filled(stored.weight_zero_point)
    stored.weight_scale = nn.Parameter(torch.rand(96, 2).bfloat16().float(), requires_grad=False)
    x = torch.randn(9, 128)
    expected, got = stored(x), IntegerLinear.of(stored)(x)
    assert len(stored.group_zeros().unique()) > 8
    assert (got - expected).norm() < 0.01 * expected.norm()


def test_what_is_not_written_for_takes_the_operators_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    odd = plain("int8", 64, 56, bias=False)
    assert isinstance(odd, StoredInt8)
    assert not can_compute(odd)
    fitting_int8, fitting_int4 = (
        plain(kind, 64, 64, bias=False) for kind in ("int8", "int4 with scales")
    )
    assert isinstance(fitting_int8, StoredInt8)
    assert isinstance(fitting_int4, StoredInt4)
    assert isinstance(fastest_int8(fitting_int8), IntegerLinear)
    assert isinstance(fastest_int4(fitting_int4, torch.bfloat16), IntegerLinear)
    if can_pack():
        assert isinstance(fastest_int8(odd), Int8Linear)
        monkeypatch.setitem(sys.modules, "llvmlite", None)  # as where it is not installed
        can_compile.cache_clear()
        request.addfinalizer(can_compile.cache_clear)
        assert isinstance(fastest_int8(fitting_int8), Int8Linear)
        assert isinstance(fastest_int4(fitting_int4, torch.bfloat16), Int4Linear)


@pytest.mark.parametrize("shape", [(512, 512), (1040, 896), (64, 4864)])
def test_compiled_ranges_are_those_of_pytorch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], dtype=torch.bfloat16).requires_grad_(False)
    linear.weight[5] = 0
    linear.weight[6] *= 1e4
    linear.weight[7, :128] = 1 / 128  # which turning makes one number of
    if not fits_compiled_ranges(linear):
        pytest.skip("nothing is compiled for this CPU")
    expected = lay_out(to_int8(linear, is_turned=True, has_zeros=True))
    got = to_int8_panels(linear)
    # Sums of 128 numbers in another order, of which some lie in the middle between two steps.
    apart = got.values.int() - expected.values.int()
    assert (apart[: shape[0] // 64].abs() <= 1).all()
    assert apart[: shape[0] // 64].count_nonzero() < 1e-4 * apart.numel()
    layers = [
        IntegerLinear(panels, out_features=shape[0], bias=linear.bias) for panels in (expected, got)
    ]
    x = torch.randn(40, shape[1]).bfloat16()
    torch.testing.assert_close(layers[1](x), layers[0](x), rtol=2e-2, atol=2e-2)
