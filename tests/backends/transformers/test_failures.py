"""What fails, fails its own request and says why; what cannot be answered is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from backends.transformers.asking import GREEDY, make_prompts, make_requests, run_all
from martlet.backends.base import Prompt, SampleRequest
from martlet.backends.transformers import TransformersBackend
from martlet.engine.params import SamplingParams
from martlet.errors import (
    InputError,
    MartletError,
    ParameterError,
    PromptTooLongError,
    TemplateError,
)
from support.tiny_models import VOCAB_SIZE


def test_a_failing_model_fails_its_batch_and_no_other(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck")

    request = make_requests(make_prompts(1), GREEDY)[0]
    with monkeypatch.context() as broken:
        broken.setattr(backend._model, "generate", fail)
        failed = run_all(backend, [request])["row-0"]
    assert (failed.finish_reason, failed.error) == ("error", "RuntimeError: out of luck")
    assert run_all(backend, [request])["row-0"].finish_reason == "length"


def test_logits_that_are_not_finite_fail_their_request_and_no_other(
    backend: TransformersBackend,
) -> None:
    requests = make_requests(make_prompts(3), replace(GREEDY, logprobs=0))
    expected = run_all(backend, requests)
    num_drawn = 0

    def spoil(_model: nn.Module, _: object, inputs: dict[str, torch.Tensor], out: Any) -> None:
        nonlocal num_drawn
        is_prompt = inputs["input_ids"].shape[1] > 1
        num_drawn = 0 if is_prompt else num_drawn + 1
        if num_drawn == 2:
            out.logits[1] = float("nan")

    backend._model.register_forward_hook(spoil, with_kwargs=True)
    outputs = run_all(backend, requests)
    lost = outputs["row-1"]
    assert (lost.finish_reason, lost.error) == ("error", "the model gave no finite logits")
    assert lost.token_ids == expected["row-1"].token_ids[:2]
    assert (outputs["row-0"], outputs["row-2"]) == (expected["row-0"], expected["row-2"])
    alone = run_all(backend, [requests[0], replace(requests[1], params=GREEDY)])
    assert (alone["row-0"], alone["row-1"].finish_reason) == (expected["row-0"], "error")


def test_a_batch_without_any_finite_logits_ends(
    backend: TransformersBackend,
) -> None:
    def spoil(_model: nn.Module, _inputs: object, out: Any) -> None:
        out.logits.fill_(float("nan"))

    backend._model.register_forward_hook(spoil)
    outputs = run_all(backend, make_requests(make_prompts(2), replace(GREEDY, logprobs=1)))
    assert {output.error for output in outputs.values()} == {"the model gave no finite logits"}


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
