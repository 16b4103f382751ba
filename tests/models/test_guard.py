"""The load-time guard: what it refuses and why, and what it learns of a model's layers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from martlet.errors import UnsupportedArchitectureError
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.guard import LayerShape, check, own_logits
from support.engines import load_fp32
from support.tiny_models import REFUSED, tiny_model_folder


@pytest.fixture
def llama(tiny_llama: ModelFolder) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_llama.path, dtype=torch.float32).eval()


def test_the_shape_of_every_layer_is_seen(llama: PreTrainedModel) -> None:
    shape = LayerShape(num_heads=4, num_kv_heads=2, key_dim=16, value_dim=16)
    assert check(llama, own_logits(llama)) == (shape,) * llama.config.num_hidden_layers


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_oss"])
def test_caps_and_sinks_of_scores_are_seen(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / architecture))
    assert not any(layer.is_plain for layer in load_fp32(folder).layers)


@pytest.mark.parametrize("architecture", REFUSED)
def test_architectures_that_would_be_wrong_in_silence_are_refused(
    architecture: str, tmp_path: Path
) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / architecture))
    with pytest.raises(UnsupportedArchitectureError, match="ForCausalLM"):
        load_fp32(folder)


def test_a_model_that_mixes_the_tokens_of_a_row_is_refused(llama: PreTrainedModel) -> None:
    """As a convolution or a recurrent state would."""

    def look_at_the_token_before(_module: object, _inputs: object, output: torch.Tensor):
        return output + output.roll(1, dims=1)

    llama.model.layers[0].mlp.register_forward_hook(look_at_the_token_before)
    expected = own_logits(llama)
    with pytest.raises(UnsupportedArchitectureError, match="something else on packed tokens"):
        check(llama, expected)


def test_a_layer_that_attends_by_itself_is_refused(llama: PreTrainedModel) -> None:
    class Silent(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, **_: object):
            return hidden_states, None

    llama.model.layers[1].self_attn = Silent()
    expected = own_logits(llama)
    with pytest.raises(UnsupportedArchitectureError, match="1 times for 2 layers"):
        check(llama, expected)


def test_the_context_stays_below_where_longrope_begins_to_stretch(tmp_path: Path) -> None:
    path = tiny_model_folder("phi3", tmp_path / "phi3")
    config = AutoModelForCausalLM.from_pretrained(path).config
    half_head = config.hidden_size // config.num_attention_heads // 2
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * half_head,
        "long_factor": [4.0] * half_head,
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 1.0,
    }
    config.original_max_position_embeddings = 64
    config.save_pretrained(path)
    assert load_fp32(open_folder(path)).max_context_tokens == 64
