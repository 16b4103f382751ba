"""The backend of last resort: the tokens of plain `generate`, whatever else is in the batch."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from martlet.backends.base import Backend, Prompt, SampleOutput, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions, DType
from martlet.backends.transformers import TransformersBackend
from martlet.engine.params import SamplingParams
from martlet.errors import (
    InputError,
    MartletError,
    ParameterError,
    PromptTooLongError,
    TemplateError,
)
from martlet.models.folder import open_folder
from support.tiny_models import (
    MAX_CONTEXT_TOKENS,
    REFUSED,
    VOCAB_SIZE,
    tiny_model_folder,
    tiny_tokenizer,
)

GREEDY = SamplingParams(temperature=0, max_tokens=12)
LETTERS = replace(GREEDY, logit_bias=dict.fromkeys(range(3, 97), 50.0))
"""Replies of the tokens `!` to `~` alone, where a random model writes half characters."""

SHORT_CONTEXT_TOKENS = 40
_DECODER = {
    "d_model": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": SHORT_CONTEXT_TOKENS,
    "init_std": 0.2,
}
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
IGNORES_PADDING = {
    "rwkv": {"hidden_size": 64, "num_hidden_layers": 2, "context_length": SHORT_CONTEXT_TOKENS},
    "bart": _DECODER,
    "blenderbot": _DECODER,
    "trocr": _DECODER,
}
"""Architectures that compute other logits for a padded prompt."""


def _save(architecture: str, sizes: Mapping[str, object], folder: Path) -> Path:
    """A tiny random model of an architecture that `tiny_model_folder` does not make."""
    special_ids = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    as_decoder = {"is_decoder": True, "is_encoder_decoder": False} if sizes is _DECODER else {}
    config = AutoConfig.for_model(
        architecture, vocab_size=VOCAB_SIZE, **special_ids, **as_decoder, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _load(
    folder: Path, *, max_num_requests: int = 8, max_context_tokens: int | None = None
) -> TransformersBackend:
    options = BackendOptions(
        backend="transformers",
        dtype="fp32",
        device="cpu",
        max_num_requests=max_num_requests,
        max_context_tokens=max_context_tokens,
    )
    backend = load_backend(str(folder), options=options)
    assert isinstance(backend, TransformersBackend)
    return backend


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder("falcon", tmp_path_factory.mktemp("falcon"))


@pytest.fixture
def backend(folder: Path) -> TransformersBackend:
    return _load(folder)


def _prompts(num_prompts: int) -> list[tuple[int, ...]]:
    random = Random(7)
    lengths = [3 + 17 * number % 40 for number in range(num_prompts)]
    return [tuple(random.choices(range(10, VOCAB_SIZE), k=length)) for length in lengths]


def _requests(prompts: Sequence[tuple[int, ...]], params: SamplingParams) -> list[SampleRequest]:
    return [
        SampleRequest(request_id=f"row-{row}", prompt_ids=prompt, params=params, seed=100 + row)
        for row, prompt in enumerate(prompts)
    ]


def _run(backend: Backend, requests: Sequence[SampleRequest]) -> dict[str, SampleOutput]:
    for request in requests:
        backend.submit(request)
    outputs: dict[str, SampleOutput] = {}
    while backend.num_unfinished:
        outputs |= {output.request_id: output for output in backend.poll()}
    assert backend.poll() == []
    return outputs


def _run_one(backend: Backend, prompt: tuple[int, ...], params: SamplingParams) -> SampleOutput:
    return _run(backend, _requests([prompt], params))["row-0"]


@pytest.mark.parametrize("architecture", [*REFUSED, "gpt2", "gemma2"])
def test_greedy_replies_are_those_of_plain_generate_alone(
    architecture: str, tmp_path: Path
) -> None:
    folder = tiny_model_folder(architecture, tmp_path)
    prompts = _prompts(5)
    outputs = _run(_load(folder, max_num_requests=3), _requests(prompts, GREEDY))
    model = AutoModelForCausalLM.from_pretrained(folder)
    for row, prompt in enumerate(prompts):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        assert list(outputs[f"row-{row}"].token_ids) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", SHORT_CONTEXT)
def test_a_batch_stays_within_the_context(architecture: str, tmp_path: Path) -> None:
    folder = _save(architecture, SHORT_CONTEXT[architecture], tmp_path)
    backend = _load(folder, max_context_tokens=SHORT_CONTEXT_TOKENS)
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
    together = _run(backend, requests)
    assert [output.finish_reason for output in together.values()] == ["length"] * 5
    assert [len(together[str(row)].token_ids) for row in range(5)] == [36, 4, 4, 30, 3]
    for request in requests:
        assert _run(backend, [request])[request.request_id] == together[request.request_id]


def test_the_first_waiting_goes_in_and_then_what_fits_beside_it(folder: Path) -> None:
    backend = _load(folder, max_num_requests=3, max_context_tokens=20)
    lengths_and_limits = [(10, 5), (16, 4), (3, 10), (4, 11), (15, 5), (3, 3)]
    for row, (length, max_tokens) in enumerate(lengths_and_limits):
        params = replace(GREEDY, max_tokens=max_tokens)
        prompt = tuple(range(20, 20 + length))
        backend.submit(SampleRequest(request_id=str(row), prompt_ids=prompt, params=params, seed=0))
    batches = []
    while backend.num_unfinished:
        batches.append([output.request_id for output in backend.poll()])
    assert batches == [["0", "2", "5"], ["1"], ["3"], ["4"]]


@pytest.mark.parametrize("architecture", IGNORES_PADDING)
def test_a_model_that_ignores_padding_computes_one_request_at_a_time(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _save(architecture, IGNORES_PADDING[architecture], tmp_path)
    with caplog.at_level(logging.WARNING, logger="martlet.backends.transformers"):
        backend = _load(folder)
    assert [record.name for record in caplog.records] == ["martlet.backends.transformers"]
    assert "one request at a time" in caplog.text
    assert backend.limits.max_num_requests == 1
    prompts = [prompt[:20] for prompt in _prompts(3)]
    outputs = _run(backend, _requests(prompts, replace(GREEDY, ignore_eos=True)))
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
    outputs = _run(strict, _requests(_prompts(2), GREEDY))
    assert {output.finish_reason for output in outputs.values()} == {"length"}


def test_a_sample_depends_on_its_seed_alone(backend: TransformersBackend) -> None:
    requests = _requests(_prompts(6), SamplingParams(max_tokens=10, top_p=0.9))
    together = _run(backend, requests)
    reversed_order = _run(backend, requests[::-1])
    alone = {
        request.request_id: _run(backend, [request])[request.request_id] for request in requests
    }
    assert together == reversed_order == alone
    other_seed = _run(backend, [replace(requests[0], seed=1)])["row-0"]
    assert other_seed.token_ids != together["row-0"].token_ids


def test_the_native_engine_draws_the_same(tmp_path: Path) -> None:
    folder = tiny_model_folder("llama", tmp_path)
    params = SamplingParams(
        max_tokens=16, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.1, logprobs=2
    )
    requests = _requests(_prompts(5), params)
    options = BackendOptions(backend="native", dtype="fp32", device="cpu")
    native = _run(load_backend(str(folder), options=options), requests)
    plain = _run(_load(folder), requests)
    for request_id, output in plain.items():
        assert output.token_ids == native[request_id].token_ids
        assert output.text == native[request_id].text
        assert output.cumulative_logprob == pytest.approx(native[request_id].cumulative_logprob)


def test_rows_of_a_batch_keep_their_own_parameters(backend: TransformersBackend) -> None:
    prompt = _prompts(1)[0]
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
    together = _run(backend, requests)
    assert [len(together[str(row)].token_ids) for row in range(4)] == [12, 3, 9, 6]
    for request in requests:
        assert _run(backend, [request])[request.request_id] == together[request.request_id]


def test_a_reply_ends_where_it_should(backend: TransformersBackend) -> None:
    prompt = _prompts(1)[0]
    free = _run_one(backend, prompt, LETTERS)
    assert (free.finish_reason, free.stop_reason, len(free.token_ids)) == ("length", None, 12)
    place = next(p for p in range(3, 12) if free.token_ids[p] not in free.token_ids[:p])
    end_id, ending = free.token_ids[place], free.text[place - 1 : place + 1]

    stopped = _run_one(backend, prompt, replace(LETTERS, stop_token_ids=(end_id,)))
    assert stopped.token_ids == free.token_ids[: place + 1]
    assert stopped.text == free.text[:place]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", end_id)

    cut = _run_one(backend, prompt, replace(LETTERS, stop=(ending, "absent")))
    assert cut.token_ids == stopped.token_ids
    assert cut.text == free.text[: place - 1]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", ending)


def test_a_reply_is_as_long_as_it_must_be(backend: TransformersBackend) -> None:
    prompt = _prompts(1)[0]
    free = _run_one(backend, prompt, GREEDY)
    params = replace(GREEDY, stop_token_ids=free.token_ids, min_tokens=5)
    output = _run_one(backend, prompt, params)
    assert not set(output.token_ids[:5]) & set(free.token_ids)


def test_the_model_s_own_end_token_ends_a_reply_unless_ignored(
    backend: TransformersBackend, folder: Path
) -> None:
    end_id = open_folder(folder).generation_config["eos_token_id"]
    assert isinstance(end_id, int)
    params = replace(GREEDY, logit_bias={end_id: 100.0})
    output = _run_one(backend, (20, 21, 22), params)
    assert (output.token_ids, output.text) == ((end_id,), "")
    assert (output.finish_reason, output.stop_reason) == ("stop", end_id)
    ignored = _run_one(backend, (20, 21, 22), replace(params, ignore_eos=True))
    assert ignored.token_ids == (end_id,) * 12


def test_an_end_token_that_the_model_has_no_logits_for_is_ignored(tmp_path: Path) -> None:
    folder = tiny_model_folder("falcon", tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5000]}))
    output = _run_one(_load(folder), (20, 21, 22), replace(GREEDY, min_tokens=12))
    assert (output.finish_reason, output.error) == ("length", None)


def test_a_reply_without_a_limit_fills_the_context(folder: Path) -> None:
    backend = _load(folder, max_context_tokens=20)
    output = _run_one(backend, tuple(range(10, 26)), replace(GREEDY, max_tokens=None))
    assert (len(output.token_ids), output.finish_reason) == (4, "length")


def test_logprobs_are_the_model_s(backend: TransformersBackend, folder: Path) -> None:
    prompt = _prompts(1)[0]
    params = SamplingParams(max_tokens=4, temperature=2.0, logprobs=3)
    plain = SampleRequest(request_id="plain", prompt_ids=(15, 16), params=GREEDY, seed=0)
    outputs = _run(backend, [*_requests([prompt], params), plain])
    output = outputs["row-0"]
    assert outputs["plain"].logprobs is None
    assert output.logprobs is not None
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + output.token_ids])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    total = 0.0
    for step, (token_id, reported) in enumerate(
        zip(output.token_ids, output.logprobs, strict=True)
    ):
        assert next(iter(reported)) == token_id
        assert set(expected[step].topk(3).indices.tolist()) <= set(reported)
        for shown in reported.values():
            assert shown.logprob == pytest.approx(expected[step, shown.token_id].item(), abs=1e-4)
        total += reported[token_id].logprob
    assert output.cumulative_logprob == pytest.approx(total)


def test_an_aborted_request_does_not_come_back(backend: TransformersBackend) -> None:
    requests = _requests(_prompts(3), GREEDY)
    for request in requests:
        backend.submit(request)
    backend.abort("row-1")
    backend.abort("unknown")
    assert backend.num_unfinished == 2
    assert [output.request_id for output in backend.poll()] == ["row-0", "row-2"]


def test_a_failing_model_fails_its_batch_and_no_other(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    request = _requests(_prompts(1), GREEDY)[0]
    with monkeypatch.context() as broken:
        broken.setattr(backend._model, "generate", fail)
        failed = _run(backend, [request])["row-0"]
    assert (failed.finish_reason, failed.error) == ("error", "RuntimeError: out of luck")
    assert _run(backend, [request])["row-0"].finish_reason == "length"


def test_logits_that_are_not_finite_fail_their_request_and_no_other(
    backend: TransformersBackend,
) -> None:
    requests = _requests(_prompts(3), replace(GREEDY, logprobs=0))
    expected = _run(backend, requests)
    num_drawn = 0

    def spoil(_model: nn.Module, _: object, inputs: dict[str, torch.Tensor], out: Any) -> None:
        nonlocal num_drawn
        is_prompt = inputs["input_ids"].shape[1] > 1
        num_drawn = 0 if is_prompt else num_drawn + 1
        if num_drawn == 2:
            out.logits[1] = float("nan")

    backend._model.register_forward_hook(spoil, with_kwargs=True)
    outputs = _run(backend, requests)
    lost = outputs["row-1"]
    assert (lost.finish_reason, lost.error) == ("error", "the model gave no finite logits")
    assert lost.token_ids == expected["row-1"].token_ids[:2]
    assert (outputs["row-0"], outputs["row-2"]) == (expected["row-0"], expected["row-2"])
    alone = _run(backend, [requests[0], replace(requests[1], params=GREEDY)])
    assert (alone["row-0"], alone["row-1"].finish_reason) == (expected["row-0"], "error")


def test_a_batch_without_any_finite_logits_ends(
    backend: TransformersBackend,
) -> None:
    def spoil(_model: nn.Module, _inputs: object, out: Any) -> None:
        out.logits.fill_(float("nan"))

    backend._model.register_forward_hook(spoil)
    outputs = _run(backend, _requests(_prompts(2), replace(GREEDY, logprobs=1)))
    assert {output.error for output in outputs.values()} == {"the model gave no finite logits"}


def test_a_prompt_is_rendered_in_three_ways(backend: TransformersBackend) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    chat = backend.render(Prompt(messages=messages))
    assert chat.text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert backend.render(Prompt(text=chat.text)).token_ids == chat.token_ids
    assert backend.render(Prompt(token_ids=chat.token_ids)).token_ids == chat.token_ids


def test_the_backend_tells_what_it_is(folder: Path) -> None:
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "top_k": 20, "eos_token_id": 2, "top_p": null}'
    )
    backend = _load(folder)
    assert (backend.identity.model, backend.identity.backend) == (str(folder), "transformers")
    assert (backend.identity.dtype, backend.identity.adapter) == ("float32", None)
    assert len(backend.identity.model_hash) == 64
    assert backend.limits.max_context_tokens == MAX_CONTEXT_TOKENS
    assert backend.default_params.values == {"temperature": 0.6, "top_k": 20}


def _submit(**changes: object) -> Callable[[TransformersBackend], object]:
    request = SampleRequest(request_id="a", prompt_ids=(20,), params=GREEDY, seed=0)
    return lambda backend: backend.submit(replace(request, **changes))


def _render(**prompt: object) -> Callable[[TransformersBackend], object]:
    return lambda backend: backend.render(Prompt(**prompt))


def _submit_twice(backend: TransformersBackend) -> None:
    _submit()(backend)
    _submit()(backend)


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (_submit(prompt_ids=(20,) * 512), PromptTooLongError, ["has 512 tokens", "holds 512"]),
        (_submit(prompt_ids=(VOCAB_SIZE,)), ParameterError, ["token id 320", "0 to 319"]),
        (_submit(prompt_ids=(-1,)), ParameterError, ["token id -1"]),
        (
            _submit(params=SamplingParams(logit_bias={999: 1.0})),
            ParameterError,
            ["token id 999", "0 to 319"],
        ),
        (
            _submit(params=SamplingParams(stop_token_ids=(5, 888))),
            ParameterError,
            ["token id 888", "0 to 319"],
        ),
        (_submit(params=SamplingParams(prompt_logprobs=0)), ParameterError, ["prompt_logprobs"]),
        (_submit_twice, ParameterError, ["'a' is in use"]),
        (_render(text=""), InputError, ["the prompt is empty"]),
        (_render(token_ids=()), InputError, ["the prompt is empty"]),
        (_render(token_ids=(5, 1000)), InputError, ["token id 1000"]),
        (_render(messages=[]), TemplateError, ["at least one message"]),
    ],
)
def test_what_cannot_be_answered_is_refused(
    act: Callable[[TransformersBackend], object],
    kind: type[MartletError],
    words: list[str],
    backend: TransformersBackend,
) -> None:
    with pytest.raises(kind) as refusal:
        act(backend)
    assert refusal.value.exit_code == 2
    for word in words:
        assert word in str(refusal.value)
