"""Models that compute other logits for a padded prompt get one request at a time."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from backends.transformers.asking import (
    GREEDY,
    SHORT_CONTEXT_TOKENS,
    load_plain,
    make_prompts,
    make_requests,
    run_all,
    save_model,
)
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions, DType
from martlet.backends.transformers import TransformersBackend
from support.tiny_models import REFUSED, tiny_model_folder

_DECODER = {
    "is_decoder": True,
    "is_encoder_decoder": False,
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": SHORT_CONTEXT_TOKENS,
    "init_std": 0.2,
}
IGNORES_PADDING = {
    "rwkv": {"hidden_size": 64, "num_hidden_layers": 2, "context_length": SHORT_CONTEXT_TOKENS},
    "bart": _DECODER,
    "blenderbot": _DECODER,
    "trocr": _DECODER,
}
"""Architectures that compute other logits for a padded prompt."""


@pytest.mark.parametrize("architecture", IGNORES_PADDING)
def test_a_model_that_ignores_padding_computes_one_request_at_a_time(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_model(architecture, IGNORES_PADDING[architecture], tmp_path)
    with caplog.at_level(logging.WARNING, logger="martlet.backends.transformers"):
        backend = load_plain(folder)
    assert [record.name for record in caplog.records] == ["martlet.backends.transformers"]
    assert "one request at a time" in caplog.text
    assert backend.limits.max_num_requests == 1
    prompts = [prompt[:20] for prompt in make_prompts(3)]
    outputs = run_all(backend, make_requests(prompts, replace(GREEDY, ignore_eos=True)))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config = GenerationConfig(pad_token_id=0)  # BART's would end with 2
    for row, prompt in enumerate(prompts):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )
        assert list(outputs[f"row-{row}"].token_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", [*REFUSED, "gpt2", "llama"])
def test_a_model_that_looks_past_padding_computes_batches(
    architecture: str, dtype: DType, tmp_path: Path
) -> None:
    options = BackendOptions(backend="transformers", dtype=dtype, device="cpu", max_num_requests=8)
    backend = load_backend(str(tiny_model_folder(architecture, tmp_path)), options=options)
    assert backend.limits.max_num_requests == 8


def test_a_model_that_fails_on_padding_computes_one_request_at_a_time(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = backend._model.forward

    def forward_one(input_ids: torch.Tensor, **inputs: object) -> object:
        if len(input_ids) > 1:
            raise IndexError("one row, please\nor else")
        return forward(input_ids, **inputs)

    monkeypatch.setattr(backend._model, "forward", forward_one)
    strict = TransformersBackend(
        backend._model,
        backend._tokenizer,
        identity=backend.identity,
        limits=backend.limits,
        default_params=backend.default_params,
    )
    assert strict.limits == replace(backend.limits, max_num_requests=1)
    assert "(IndexError: one row, please)" in caplog.text
    outputs = run_all(strict, make_requests(make_prompts(2), GREEDY))
    assert {output.finish_reason for output in outputs.values()} == {"length"}
