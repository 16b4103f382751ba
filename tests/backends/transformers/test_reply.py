"""Where a reply ends, and the log-probabilities that it has."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from backends.transformers.asking import (
    GREEDY,
    load_plain,
    make_prompts,
    make_requests,
    run_all,
    run_one,
)
from martlet.backends.base import SampleRequest
from martlet.backends.transformers import TransformersBackend
from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from support.tiny_models import tiny_model_folder

LETTERS = replace(GREEDY, logit_bias=dict.fromkeys(range(3, 97), 50.0))
"""Replies of the tokens `!` to `~` alone, where a random model writes half characters."""


def test_a_reply_ends_where_it_should(backend: TransformersBackend) -> None:
    prompt = make_prompts(1)[0]
    free = run_one(backend, prompt, LETTERS)
    assert (free.finish_reason, free.stop_reason, len(free.token_ids)) == ("length", None, 12)
    place = next(p for p in range(3, 12) if free.token_ids[p] not in free.token_ids[:p])
    end_id, ending = free.token_ids[place], free.text[place - 1 : place + 1]

    stopped = run_one(backend, prompt, replace(LETTERS, stop_token_ids=(end_id,)))
    assert stopped.token_ids == free.token_ids[: place + 1]
    assert stopped.text == free.text[:place]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", end_id)

    cut = run_one(backend, prompt, replace(LETTERS, stop=(ending, "absent")))
    assert cut.token_ids == stopped.token_ids
    assert cut.text == free.text[: place - 1]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", ending)


def test_a_reply_is_as_long_as_it_must_be(backend: TransformersBackend) -> None:
    prompt = make_prompts(1)[0]
    free = run_one(backend, prompt, GREEDY)
    params = replace(GREEDY, stop_token_ids=free.token_ids, min_tokens=5)
    output = run_one(backend, prompt, params)
    assert not set(output.token_ids[:5]) & set(free.token_ids)


def test_the_model_s_own_end_token_ends_a_reply_unless_ignored(
    backend: TransformersBackend, folder: Path
) -> None:
    end_id = open_folder(folder).generation_config["eos_token_id"]
    assert isinstance(end_id, int)
    params = replace(GREEDY, logit_bias={end_id: 100.0})
    output = run_one(backend, (20, 21, 22), params)
    assert (output.token_ids, output.text) == ((end_id,), "")
    assert (output.finish_reason, output.stop_reason) == ("stop", end_id)
    ignored = run_one(backend, (20, 21, 22), replace(params, ignore_eos=True))
    assert ignored.token_ids == (end_id,) * 12


def test_an_end_token_that_the_model_has_no_logits_for_is_ignored(tmp_path: Path) -> None:
    folder = tiny_model_folder("falcon", tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5000]}))
    output = run_one(load_plain(folder), (20, 21, 22), replace(GREEDY, min_tokens=12))
    assert (output.finish_reason, output.error) == ("length", None)


def test_a_reply_without_a_limit_fills_the_context(folder: Path) -> None:
    backend = load_plain(folder, max_context_tokens=20)
    output = run_one(backend, tuple(range(10, 26)), replace(GREEDY, max_tokens=None))
    assert (len(output.token_ids), output.finish_reason) == (4, "length")


def test_logprobs_are_the_model_s(backend: TransformersBackend, folder: Path) -> None:
    prompt = make_prompts(1)[0]
    params = SamplingParams(max_tokens=4, temperature=2.0, logprobs=3)
    plain = SampleRequest(request_id="plain", prompt_ids=(15, 16), params=GREEDY, seed=0)
    outputs = run_all(backend, [*make_requests([prompt], params), plain])
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
