"""A batch draws what plain `generate` and the native engine draw alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from backends.transformers.asking import (
    GREEDY,
    SHORT_CONTEXT_TOKENS,
    load_plain,
    make_prompts,
    make_requests,
    run_all,
    save_model,
)
from martlet.backends.base import SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.backends.transformers import TransformersBackend
from martlet.engine.params import SamplingParams
from support.tiny_models import REFUSED, tiny_model_folder

_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": SHORT_CONTEXT_TOKENS}
_PLAIN = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": SHORT_CONTEXT_TOKENS,
}
_ROTARY = {**_GPT, "rotary_dim": 8, "initializer_range": 0.2}
SHORT_CONTEXT = {
    "gptj": _ROTARY,
    "codegen": _ROTARY,
    "gpt_neo": {**_PLAIN, "num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": SHORT_CONTEXT_TOKENS},
    "biogpt": {**_PLAIN, "num_hidden_layers": 2, "intermediate_size": 96},
    "openai-gpt": _GPT,
}
"""Architectures that fail past their context, with a short one."""


@pytest.mark.parametrize("architecture", [*REFUSED, "gpt2", "gemma2"])
def test_greedy_replies_are_those_of_plain_generate_alone(
    architecture: str, tmp_path: Path
) -> None:
    folder = tiny_model_folder(architecture, tmp_path)
    prompts = make_prompts(5)
    outputs = run_all(load_plain(folder, max_num_requests=3), make_requests(prompts, GREEDY))
    model = AutoModelForCausalLM.from_pretrained(folder)
    for row, prompt in enumerate(prompts):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        assert list(outputs[f"row-{row}"].token_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", SHORT_CONTEXT)
def test_a_batch_stays_within_the_context(architecture: str, tmp_path: Path) -> None:
    folder = save_model(architecture, SHORT_CONTEXT[architecture], tmp_path)
    backend = load_plain(folder, max_context_tokens=SHORT_CONTEXT_TOKENS)
    lengths_and_limits = [(4, 36), (30, 4), (36, 4), (3, 30), (37, None)]
    requests = [
        SampleRequest(
            request_id=str(row),
            prompt_ids=tuple(range(20, 20 + length)),
            params=replace(GREEDY, max_tokens=max_tokens, ignore_eos=True),
            seed=0,
        )
        for row, (length, max_tokens) in enumerate(lengths_and_limits)
    ]
    together = run_all(backend, requests)
    assert [output.finish_reason for output in together.values()] == ["length"] * 5
    assert [len(together[str(row)].token_ids) for row in range(5)] == [36, 4, 4, 30, 3]
    for request in requests:
        assert run_all(backend, [request])[request.request_id] == together[request.request_id]


def test_the_first_waiting_goes_in_and_then_what_fits_beside_it(folder: Path) -> None:
    backend = load_plain(folder, max_num_requests=3, max_context_tokens=20)
    lengths_and_limits = [(10, 5), (16, 4), (3, 10), (4, 11), (15, 5), (3, 3)]
    for row, (length, max_tokens) in enumerate(lengths_and_limits):
        params = replace(GREEDY, max_tokens=max_tokens)
        prompt = tuple(range(20, 20 + length))
        backend.submit(SampleRequest(request_id=str(row), prompt_ids=prompt, params=params, seed=0))
    batches = []
    while backend.num_unfinished:
        batches.append([output.request_id for output in backend.poll()])
    assert batches == [["0", "2", "5"], ["1"], ["3"], ["4"]]


def test_a_sample_depends_on_its_seed_alone(backend: TransformersBackend) -> None:
    requests = make_requests(make_prompts(6), SamplingParams(max_tokens=10, top_p=0.9))
    together = run_all(backend, requests)
    reversed_order = run_all(backend, requests[::-1])
    alone = {
        request.request_id: run_all(backend, [request])[request.request_id] for request in requests
    }
    assert together == reversed_order == alone
    other_seed = run_all(backend, [replace(requests[0], seed=1)])["row-0"]
    assert other_seed.token_ids != together["row-0"].token_ids


def test_the_native_engine_draws_the_same(tmp_path: Path) -> None:
    folder = tiny_model_folder("llama", tmp_path)
    params = SamplingParams(
        max_tokens=16, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.1, logprobs=2
    )
    requests = make_requests(make_prompts(5), params)
    options = BackendOptions(backend="native", dtype="fp32", device="cpu")
    native = run_all(load_backend(str(folder), options=options), requests)
    plain = run_all(load_plain(folder), requests)
    for request_id, output in plain.items():
        assert output.token_ids == native[request_id].token_ids
        assert output.text == native[request_id].text
        assert output.cumulative_logprob == pytest.approx(native[request_id].cumulative_logprob)


def test_rows_of_a_batch_keep_their_own_parameters(backend: TransformersBackend) -> None:
    prompt = make_prompts(1)[0]
    varied = [
        GREEDY,
        SamplingParams(max_tokens=3),
        SamplingParams(max_tokens=9, temperature=0.5, top_k=5),
        SamplingParams(max_tokens=6, repetition_penalty=1.5, min_p=0.1),
    ]
    requests = [
        SampleRequest(request_id=str(row), prompt_ids=prompt, params=params, seed=3)
        for row, params in enumerate(varied)
    ]
    together = run_all(backend, requests)
    assert [len(together[str(row)].token_ids) for row in range(4)] == [12, 3, 9, 6]
    for request in requests:
        assert run_all(backend, [request])[request.request_id] == together[request.request_id]


def test_an_aborted_request_does_not_come_back(backend: TransformersBackend) -> None:
    requests = make_requests(make_prompts(3), GREEDY)
    for request in requests:
        backend.submit(request)
    backend.abort("row-1")
    backend.abort("unknown")
    assert backend.num_unfinished == 2
    assert [output.request_id for output in backend.poll()] == ["row-0", "row-2"]
