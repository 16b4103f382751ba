"""Queries and keys rotated by their positions (Su et al., arXiv:2104.09864).

Shapes: T tokens, Hq query heads, Hkv key heads, D their width.
"""

import torch
from torch import Tensor, nn

from martlet.models.compiled.threads import WIDTH, is_compiled_for, run

Angles = tuple[Tensor, Tensor]
"""Cosine and sine, `[1, 1, T, D]` each."""


class Rotation(nn.Module):
    """Rotates the two halves of each head against each other.

    Args:
        dim: D.
        model_width: Of the model that it is a part of.
    """

    def __init__(self, dim: int, model_width: int) -> None:
        super().__init__()
        self.dim, self.model_width = dim, model_width

    def forward(self, query: Tensor, key: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        """`[1, T, Hq, D]` and `[1, T, Hkv, D]` -> `[1, Hq, T, D]` and `[1, Hkv, T, D]`."""
        return _rotate(query.transpose(1, 2), *angles), _rotate(key.transpose(1, 2), *angles)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    rotated = (x * cos) + (torch.cat((-second, first), dim=-1) * sin)
    return rotated.to(x.dtype)


class FusedRotation(Rotation):
    """In one pass instead of twelve, for models in bf16 on the CPU."""

    def forward(self, query: Tensor, key: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        """As `Rotation.forward`, but what comes out is in fp32."""
        from martlet.models.compiled.rotary import ROWS_AT_ONCE, rotate

        cos, sin = (angle.float().contiguous() for angle in angles)
        heads = [_with_heads_in_a_row(each.float()) for each in (query, key)]
        outs = [each.new_empty(each.shape) for each in heads]
        num_tokens = query.shape[1]
        arguments = (
            *(each.data_ptr() for each in (*heads, cos, sin, *outs)),
            *(each.stride(1) * each.itemsize for each in heads),
            *(num_tokens, query.shape[2], key.shape[2], self.dim),
        )
        run(rotate(), arguments, alone=num_tokens <= ROWS_AT_ONCE)
        return outs[0].transpose(1, 2), outs[1].transpose(1, 2)


def _with_heads_in_a_row(x: Tensor) -> Tensor:
    """`[1, T, H, D]`, whose heads lie side by side; the tokens may lie apart."""
    return x if x.stride(3) == 1 and x.stride(2) == x.shape[3] else x.contiguous()


def fuse_rotation(rotation: Rotation, dtype: torch.dtype) -> FusedRotation | None:
    """The compiled rotation of tensors of a dtype, or None where there is none.

    The model that a rotation is a part of is on the CPU.
    """
    like = torch.empty(0, dtype=dtype)
    if rotation.dim % WIDTH or not is_compiled_for(like, rotation.model_width):
        return None
    return FusedRotation(rotation.dim, rotation.model_width)
