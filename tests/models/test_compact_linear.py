"""A bf16 weight in twelve bits is the same weight, and its product the same to the last bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.compiled.threads import can_compile, has_tiles, run
from martlet.models.compiled.writing import Writing, writing
from martlet.models.linear.compact import CompactLinear, CompactWeight, compact
from martlet.models.linear.fastest import fastest_bf16
from martlet.models.linear.packed import PackedLinear
from martlet.models.linear.packed_product import packed_product

pytestmark = pytest.mark.skipif(
    not can_compile() or has_tiles(), reason="bf16 weights stay as they are on this machine"
)
SMALLEST, LARGEST = 1e-38, 3e38
"""Whose exponents no other weight has."""


def linear(num_outputs: int, num_inputs: int, *, has_bias: bool = True) -> nn.Linear:
    """Weights like those of a model, some zeros of both signs, and exceptions in every place."""
    torch.manual_seed(0)
    made = nn.Linear(num_inputs, num_outputs, bias=has_bias, dtype=torch.bfloat16)
    weight = made.requires_grad_(False).weight
    weight.normal_(std=0.02)
    weight[::17, ::13] = 0
    weight[1::17, ::13] = -0.0
    weight[0, 0] = weight[-1, -1] = SMALLEST
    weight[5, 10:14] = torch.tensor([SMALLEST, -SMALLEST, SMALLEST, 1e-39])  # the last: no exponent
    weight[6, 10] = weight[37, 11] = 1e-20
    return made


def restored(weight: CompactWeight) -> Tensor:
    """`[out, in]`, read number by number."""
    num_panels, num_steps, _ = weight.steps.shape
    steps = weight.steps.view(torch.int16).view(num_panels, num_steps, 3, 32).int() & 0xFFFF
    codes = torch.stack([steps[:, :, 2] >> (4 * index) & 15 for index in range(4)], dim=2)
    tables = weight.tables.flatten(1).int()[:, None].expand(-1, num_steps, -1)
    exponents = tables.gather(2, codes.flatten(2).long()).view(codes.shape)
    swapped = (steps >> 8) | (steps << 8 & 0xFF00)
    kept = torch.stack((steps, swapped), dim=3)[:, :, :2].flatten(2, 3) & 0x807F
    values = (kept | exponents).view(-1, 128)
    for exception in weight.exceptions[:-1].tolist():
        step, place = exception >> 32, exception >> 16 & 0xFFFF
        values[step, place] = exception & 0xFFFF
    # [panel, step, vector, output, input of the pair]
    in_order = values.view(num_panels, num_steps, 4, 16, 2).permute(0, 2, 3, 1, 4)
    return in_order.reshape(num_panels * 64, -1).short().view(torch.bfloat16)


@pytest.mark.parametrize("shape", [(128, 96), (1088, 544), (576, 4864)])
def test_no_bit_of_a_weight_is_lost(shape: tuple[int, int]) -> None:
    weight = linear(*shape).weight
    weight[3, 4], weight[60, 31], weight[7, 7] = LARGEST, float("inf"), float("nan")
    made = CompactWeight.of(weight)
    assert made is not None
    assert made.steps.numel() * 8 == 12 * weight.numel()
    assert torch.equal(restored(made).view(torch.int16), weight.view(torch.int16))


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(512, 512), (1088, 544), (576, 4864)])
def test_it_computes_what_the_packed_weight_does(shape: tuple[int, int], has_bias: bool) -> None:
    plain = linear(*shape, has_bias=has_bias)
    made, packed = compact(plain), PackedLinear(plain)
    product = packed_product(packed.weight_packed, packed.bias)
    assert made is not None
    assert product is not None
    for num_rows in (*range(13), 100, 203, 400):
        x = torch.randn(1, num_rows, shape[1]).bfloat16()
        for made.out_dtype in (torch.bfloat16, torch.float32):
            assert torch.equal(made(x), product.multiply(x, made.out_dtype))


@pytest.mark.parametrize("shape", [(512, 512), (640, 2304)])
def test_a_gate_that_the_product_applies_changes_no_bit(shape: tuple[int, int]) -> None:
    from martlet.models.compiled.elementwise import silu_times

    gate, up = compact(linear(*shape)), compact(negative(linear(*shape)))
    assert gate is not None
    assert up is not None
    assert gate.is_like(up)
    gate.out_dtype = up.out_dtype = torch.float32
    for num_rows in (5, 100, 203, 400):
        x = torch.randn(1, num_rows, shape[1]).bfloat16()
        left, right, expected = gate(x), up(x), x.new_empty(1, num_rows, shape[0])
        places = (left.data_ptr(), right.data_ptr(), expected.data_ptr())
        run(silu_times(), (*places, num_rows, shape[0]))
        assert torch.equal(gate.gated(up, x), expected)
        torch.testing.assert_close(
            expected, (F.silu(left) * right).bfloat16(), rtol=2**-7, atol=1e-6
        )


def negative(layer: nn.Linear) -> nn.Linear:
    layer.weight.neg_()
    return layer


def test_a_row_comes_out_the_same_beside_others() -> None:
    made = compact(linear(512, 1536))
    assert made is not None
    x = torch.randn(203, 1536).bfloat16()
    alone = torch.cat([made(row[None]) for row in x])
    assert torch.equal(made(x), alone)


def test_what_is_too_large_for_a_cache_is_written_past_it() -> None:
    made = compact(linear(8192, 512))
    assert made is not None
    made.out_dtype = torch.float32
    x = torch.randn(300, 512).bfloat16()
    out = made(x)
    assert writing(torch.float32, out.data_ptr(), 300, 8192) == Writing.PAST_CACHES
    assert torch.equal(out, torch.cat([made(row[None]) for row in x]))


def test_rows_that_lie_apart_and_rows_that_are_not_finite() -> None:
    made = compact(linear(512, 512))
    assert made is not None
    x = torch.randn(512, 2).bfloat16().T
    assert torch.equal(made(x), made(x.contiguous()))
    x = x.clone()
    x[0, 3] = float("nan")
    assert made(x).isnan().any(dim=1).tolist() == [True, False]


def test_a_weight_is_compact_where_that_pays_and_packed_elsewhere() -> None:
    assert isinstance(fastest_bf16(linear(512, 512)), CompactLinear)
    assert isinstance(fastest_bf16(linear(528, 512)), PackedLinear)
    assert isinstance(fastest_bf16(linear(256, 512)), PackedLinear)
    any_exponent = linear(512, 512)
    any_exponent.weight.copy_(torch.randn(512, 512).mul_(20).exp2_())
    assert isinstance(fastest_bf16(any_exponent), PackedLinear)
