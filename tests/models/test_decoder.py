"""The decoder that is written out computes what transformers computes, and takes nothing else."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from martlet.demo import model_path
from martlet.models.causal_lm import logits_of
from martlet.models.decoder.load import load_decoder
from martlet.models.folder import open_folder
from martlet.models.pretrained import load_module
from support.tiny_models import tiny_model_folder

NUM_TOKENS = 37


def with_settings(folder: Path, changed: Mapping[str, Any]) -> Path:
    """Writes settings into a folder's config."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(architecture: str, tmp_path: Path) -> Path:
    if architecture == "demo":
        return model_path()
    made = tiny_model_folder(architecture, tmp_path)
    return with_settings(made, {"sliding_window": None}) if architecture == "mistral" else made


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3", "demo"])
def test_its_logits_are_those_of_transformers_bit_for_bit(folder: Path, dtype: torch.dtype) -> None:
    own = load_decoder(open_folder(folder), dtype=dtype)
    reference = load_module(
        open_folder(folder), dtype=dtype, device=torch.device("cpu"), trust_remote_code=False
    )
    reference.set_attn_implementation("sdpa")
    assert own is not None
    places = torch.arange(NUM_TOKENS)
    step = {"input_ids": 11 * places[None] % 300, "position_ids": places[None], "rows": places[3:]}
    assert torch.equal(logits_of(own, **step), logits_of(reference, **step))


@pytest.mark.parametrize("architecture", ["qwen2"])
@pytest.mark.parametrize(
    "changed",
    [
        {"model_type": "qwen2_moe"},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0}},
        {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {"rope_theta": 1000.0},
        {"sliding_window": 32, "use_sliding_window": True},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"rms_norm_eps": None},
        {"num_key_value_heads": None},
        {"num_hidden_layers": 3},
        {"head_dim": 8},
        {"tie_word_embeddings": True},
        {"quantization_config": {"quant_method": "gptq"}},
        {"a_setting_of_next_year": 1},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_what_is_unusual_is_left_to_transformers(folder: Path, changed: dict[str, Any]) -> None:
    assert load_decoder(open_folder(folder), dtype=torch.float32) is not None
    with_settings(folder, changed)
    assert load_decoder(open_folder(folder), dtype=torch.float32) is None


def test_no_model_code_of_transformers_is_imported_for_it() -> None:
    code = """
import sys, torch
from martlet.demo import model_path
from martlet.models.folder import open_folder
from martlet.models.load import load_model
load_model(open_folder(model_path()), dtype=torch.bfloat16, device=torch.device("cpu"))
print(*{"transformers", "torch._dynamo", "torch.distributed.tensor", "sympy"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
