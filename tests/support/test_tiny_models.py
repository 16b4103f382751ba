"""The tiny models are what they promise: loadable, reproducible and not monotonous."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.tiny_models import ARCHITECTURES, REFUSED, tiny_model_folder


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *REFUSED])
def test_a_tiny_model_loads_and_replies(architecture: str, tmp_path: Path) -> None:
    folder = tiny_model_folder(architecture, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    conversation = [{"role": "user", "content": "Which option is right? " * 5}]
    inputs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    sequence = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0]
    reply = sequence[inputs["input_ids"].shape[1] :].tolist()
    assert len(reply) == 8
    assert len(set(reply)) > 2


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    first, same, other = (
        AutoModelForCausalLM.from_pretrained(
            tiny_model_folder("qwen2", tmp_path / name, seed=seed)
        ).lm_head.weight
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
