"""Layers of a bf16 decoder add in fp32, which brings its logits nearer to those of fp32."""

import pytest
import torch
from torch import Tensor

from martlet.demo import model_path
from martlet.models.causal_lm import logits_of
from martlet.models.decoder.decoder import Decoder, causal_attention
from martlet.models.decoder.load import load_decoder
from martlet.models.folder import open_folder
from martlet.models.load import load_model
from martlet.models.norm import FusedRMSNorm

NUM_TOKENS = 200


@torch.inference_mode()
def logits(decoder: Decoder) -> Tensor:
    places = torch.arange(NUM_TOKENS)
    token_ids = (37 * places + places**2)[None] % 700
    found = logits_of(decoder, input_ids=token_ids, position_ids=places[None], rows=places)
    return found.float()


def plain(dtype: torch.dtype) -> Decoder:
    """As transformers computes it."""
    decoder = load_decoder(open_folder(model_path()), dtype=dtype)
    assert decoder is not None
    return decoder


def test_the_logits_are_nearer_to_those_of_fp32() -> None:
    loaded = load_model(
        open_folder(model_path()), dtype=torch.bfloat16, device=torch.device("cpu")
    ).module
    assert isinstance(loaded, Decoder)
    if not isinstance(loaded.model.norm, FusedRMSNorm):
        pytest.skip("nothing is replaced on this machine")
    assert loaded.residual_dtype == torch.float32
    loaded.attention = causal_attention
    exact, rounded = logits(plain(torch.float32)), logits(plain(torch.bfloat16))
    assert (logits(loaded) - exact).norm() < 0.8 * (rounded - exact).norm()


def test_a_decoder_in_fp32_has_nothing_to_widen() -> None:
    loaded = load_model(open_folder(model_path()), dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(loaded.module, Decoder)
    assert loaded.module.residual_dtype is None
