"""What is kept in fp32 between products that are in bf16 or fewer bits.

That is all but the inputs of products: what goes from layer to layer, to which each layer adds
twice; queries, keys and values on their way to attention; and the logits. With those of the MLP
(`gated_mlp`) they are most of what bf16 costs in all (docs/architecture.md). Each is read
once, by a norm, a rotation or an activation, and most are still in the cache then.
"""

import torch
from torch import Tensor, nn

from martlet.models.decoder.decoder import Attention, Decoder
from martlet.models.gated_mlp import GatedMLP
from martlet.models.linear.joined import LinearPart
from martlet.models.linear.written import WrittenLinear
from martlet.models.norm import FusedRMSNorm


def widen(decoder: Decoder) -> None:
    """Has layers add in fp32, and products that are not read by others write fp32.

    Only where all norms take it: those of a decoder in bf16 on a CPU whose leaves were swapped.
    """
    norms: list[nn.Module | Tensor] = [decoder.model.norm]
    for layer in decoder.model.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    if not all(isinstance(norm, FusedRMSNorm) for norm in norms):
        return
    decoder.residual_dtype = torch.float32
    products: list[nn.Module] = [decoder.lm_head]
    for module in decoder.modules():
        if isinstance(module, Attention):
            products.append(module.o_proj)
            if isinstance(module.q_proj, LinearPart):
                products.append(module.q_proj.joined.product)
            for norm in (getattr(module, name, None) for name in ("q_norm", "k_norm")):
                if isinstance(norm, FusedRMSNorm):
                    norm.out_dtype = torch.float32
        elif isinstance(module, GatedMLP):
            products.append(module.down_proj)
    for product in products:
        # Others round what they give; who reads it widens it.
        if isinstance(product, WrittenLinear):
            product.out_dtype = torch.float32
