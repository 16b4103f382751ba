"""Eight values of four bits in a word of 32, as quantised checkpoints hold them.

Shapes: W words of 8 values each.
"""

import torch
from torch import Tensor

VALUES_PER_WORD = 8


def unpack_words(words: Tensor) -> Tensor:
    """`[N, W]` words -> `[N, 8 W]` values from 0 to 15 in int32, the lowest bits first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 15).flatten(1)


def pack_words(values: Tensor) -> Tensor:
    """What `unpack_words` takes: `[N, 8 W]` values from 0 to 15 -> `[N, W]` words in int32."""
    parts = values.to(torch.int32).unflatten(1, (-1, VALUES_PER_WORD))
    packed: Tensor = torch.zeros_like(parts[..., 0])
    for place in range(VALUES_PER_WORD):
        packed.bitwise_or_(parts[..., place] << 4 * place)
    return packed


def in_awq_order(values: Tensor) -> Tensor:
    """`[N, 8 W]`, as AWQ packs them: the even outputs of a word come first in it."""
    words: Tensor = values.unflatten(1, (-1, 2, VALUES_PER_WORD // 2))
    return words.transpose(2, 3).flatten(1)
