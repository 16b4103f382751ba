"""What bf16, eight and four bits cost the embedded model stays what docs/weights.md says."""

from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from martlet.batch.prompts import multiple_choice_prompt
from martlet.demo import model_path
from martlet.demo.puzzles import unseen_puzzles
from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.models.folder import open_folder
from martlet.models.linear.fastest import can_keep_steady
from martlet.models.linear.packed import PackedLinear
from martlet.models.load import LoadedModel, load_model
from martlet.models.weights import Weights

pytestmark = pytest.mark.skipif(not can_keep_steady(), reason="other products on this machine")
NUM_PUZZLES = 12
LARGEST_KL: dict[Weights, float] = {"stored": 3.8e-5, "int8": 5.7e-4, "int4": 5.8e-2}
"""A third above what these puzzles cost; more of them are in `benchmarks/peer_quality.py`."""


def loaded(weights: Weights, dtype: torch.dtype = torch.bfloat16) -> LoadedModel:
    folder = open_folder(model_path())
    model = load_model(folder, dtype=dtype, device=torch.device("cpu"), weights=weights)
    model.compile_for_crowd()
    return model


@cache
def rows() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    questions = [(each.problem, each.questions[0]) for each in unseen_puzzles(count=NUM_PUZZLES)]
    return [
        tokenizer.encode(multiple_choice_prompt(problem, asked.question, asked.options))
        for problem, asked in questions
    ]


def log_probabilities(model: LoadedModel) -> Tensor:
    longest = max(map(len, rows())) + 1
    engine = Engine(model, EngineConfig(num_blocks=-(-longest // 16), max_context_tokens=longest))
    return torch.cat([engine.logits(row) for row in rows()]).double().log_softmax(dim=-1)


@cache
def expected() -> Tensor:
    return log_probabilities(loaded("stored", torch.float32))


@pytest.mark.parametrize("weights", LARGEST_KL)
def test_the_distributions_are_near_those_of_fp32(weights: Weights) -> None:
    got = log_probabilities(loaded(weights))
    divergence = (expected().exp() * (expected() - got)).sum(dim=-1).mean()
    assert 0 < divergence < LARGEST_KL[weights]


def test_in_eight_bits_the_layer_behind_attention_keeps_its_weight_and_its_rows() -> None:
    projection = loaded("int8").module.get_submodule("model.layers.0.self_attn.o_proj")
    assert isinstance(projection, PackedLinear)
    x = torch.randn(1, 50, projection.in_features).bfloat16()
    alone = [projection(x[:, row : row + 1]) for row in range(50)]
    assert torch.equal(projection(x), torch.cat(alone, dim=1))
