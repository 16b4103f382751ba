"""The compiled rotation of queries and keys has the bits of the plain one in fp32."""

import pytest
import torch

from martlet.models.compiled.threads import can_compile
from martlet.models.decoder.rotation import FusedRotation, Rotation, fuse_rotation

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


@pytest.mark.parametrize("dim", [32, 64, 128])
@pytest.mark.parametrize("num_tokens", [1, 9, 100])
def test_bit_for_bit_from_where_the_products_left_them(dim: int, num_tokens: int) -> None:
    torch.manual_seed(0)
    plain = Rotation(dim, 512)
    fused = fuse_rotation(plain, torch.bfloat16)
    joined = torch.randn(1, num_tokens, 9 * dim)
    query, key, _ = joined.split([5 * dim, 2 * dim, 2 * dim], dim=-1)
    heads = [each.view(1, num_tokens, -1, dim) for each in (query, key)]
    half = torch.rand(1, 1, num_tokens, dim // 2) * 1000
    angles = torch.cat((half, half), dim=-1)
    passed = (*heads, (angles.cos(), angles.sin()))
    assert isinstance(fused, FusedRotation)
    for expected, got in zip(plain(*passed), fused(*passed), strict=True):
        assert torch.equal(got, expected)


def test_heads_that_lie_apart_and_what_is_not_compiled() -> None:
    plain, fused = Rotation(64, 512), FusedRotation(64, 512)
    query, key = (torch.randn(1, heads, 7, 64).transpose(1, 2) for heads in (4, 2))
    angle = torch.rand(1, 1, 7, 64)
    angles = (angle.cos(), angle.sin())
    expected, got = plain(query, key, angles), fused(query, key, angles)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    of_rounded = fused(query.bfloat16(), key.bfloat16(), angles)
    assert torch.equal(of_rounded[0], plain(query.bfloat16().float(), key, angles)[0])
    assert fuse_rotation(plain, torch.float32) is None
    assert fuse_rotation(Rotation(80, 512), torch.bfloat16) is None
    assert fuse_rotation(Rotation(64, 128), torch.bfloat16) is None
