"""What goes from layer to layer in fp32, where products are in bf16 or fewer bits.

Each layer adds to it twice. Rounded to bf16 each time, with the logits at the end, it has two
fifths of what bf16 costs in all (docs/architecture.md). A layer reads it once, to norm it, so that
twice the bytes take no time that can be seen.
"""

import torch
from torch import Tensor, nn

from martlet.models.decoder.decoder import Attention, Decoder
from martlet.models.gated_mlp import GatedMLP
from martlet.models.linear.written import WrittenLinear
from martlet.models.norm import FusedRMSNorm


def widen_residual(decoder: Decoder) -> None:
    """Has layers add in fp32, and the head write fp32.

    Only where all norms take it: those of a decoder in bf16 on a CPU whose leaves were swapped.
    """
    norms: list[nn.Module | Tensor] = [decoder.model.norm]
    for layer in decoder.model.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    if not all(isinstance(norm, FusedRMSNorm) for norm in norms):
        return
    decoder.residual_dtype = torch.float32
    adding: list[nn.Module] = [decoder.lm_head]
    for module in decoder.modules():
        if isinstance(module, Attention):
            adding.append(module.o_proj)
        elif isinstance(module, GatedMLP):
            adding.append(module.down_proj)
    for linear in adding:
        # Others round what they give; it is added in fp32 all the same.
        if isinstance(linear, WrittenLinear):
            linear.out_dtype = torch.float32
