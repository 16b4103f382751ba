"""The compiled product of rows computes what oneDNN computes with the same packed weight."""

import pytest
import torch
from torch import Tensor, nn

from martlet.models.compiled.threads import can_compile
from martlet.models.linear.packed import PackedLinear
from martlet.models.linear.packed_product import packed_product

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


def packed(num_outputs: int, num_inputs: int, *, has_bias: bool = True) -> PackedLinear:
    torch.manual_seed(0)
    linear = nn.Linear(num_inputs, num_outputs, bias=has_bias, dtype=torch.bfloat16)
    return PackedLinear(linear.requires_grad_(False))


def by_onednn(layer: PackedLinear, x: Tensor) -> Tensor:
    product = torch.ops.mkldnn._linear_pointwise(x, layer.weight_packed, None, "none", [], "")
    return product.float() + (0 if layer.bias is None else layer.bias.float())


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 32), (384, 128), (512, 512), (1088, 544), (740, 4864)])
def test_any_packed_product(shape: tuple[int, int], has_bias: bool) -> None:
    layer = packed(*shape, has_bias=has_bias)
    product = packed_product(layer.weight_packed, layer.bias)
    assert product is not None
    for num_rows in (*range(1, 13), 100, 203):
        x = torch.randn(1, num_rows, shape[1]).bfloat16()
        exact, rounded = (product.multiply(x, dtype) for dtype in (torch.float32, torch.bfloat16))
        assert exact.dtype == torch.float32
        torch.testing.assert_close(exact, by_onednn(layer, x), rtol=1e-2, atol=1e-2)
        assert torch.equal(rounded, exact.bfloat16())


def test_a_row_comes_out_the_same_beside_others() -> None:
    layer = packed(512, 512)
    product = packed_product(layer.weight_packed, layer.bias)
    assert product is not None
    x = torch.randn(103, 512).bfloat16()
    alone = torch.cat([product.multiply(row[None], torch.float32) for row in x])
    assert torch.equal(product.multiply(x, torch.float32), alone)


def test_rows_that_lie_apart_and_rows_that_are_not_finite() -> None:
    layer = packed(512, 512)
    x = torch.randn(512, 2).bfloat16().T
    torch.testing.assert_close(layer(x), layer(x.contiguous()))
    x = x.clone()
    x[0, 3] = float("nan")
    assert layer(x).isnan().any(dim=1).tolist() == [True, False]


def test_outputs_that_fill_no_panel_are_not_written_one_by_one() -> None:
    layer = packed(528, 512)
    assert layer.calls(0, 0, 1, 0) is None
    assert layer(torch.randn(3, 512).bfloat16()).shape == (3, 528)


def test_a_weight_that_is_laid_out_otherwise_is_left_to_onednn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = packed(512, 512)
    rows = torch.ones(512, 512, dtype=torch.bfloat16)  # as if they were not packed
    monkeypatch.setattr(torch.ops.mkldnn, "data_ptr", lambda _: rows.data_ptr())
    assert packed_product(layer.weight_packed, layer.bias) is None
