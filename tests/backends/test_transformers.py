"""The backend of last resort: the tokens of plain `generate`, whatever else is in the batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM

from martlet.backends.base import Backend, Prompt, SampleOutput, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
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
from support.tiny_models import MAX_CONTEXT_TOKENS, REFUSED, VOCAB_SIZE, tiny_model_folder

GREEDY = SamplingParams(temperature=0, max_tokens=12)
LETTERS = replace(GREEDY, logit_bias=dict.fromkeys(range(3, 97), 50.0))
"""Replies of the tokens `!` to `~` alone, where a random model writes half characters."""


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
