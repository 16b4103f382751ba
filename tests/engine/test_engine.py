"""The engine as its callers see it: limits, stops, aborts, failures, sharing, and random traces."""

import random

import pytest
import torch

from martlet.engine.engine import Engine
from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError, PromptTooLongError
from martlet.models.folder import ModelFolder
from martlet.models.load import LoadedModel
from support.engines import greedy, load_fp32, make_engine, plain_logits, run_to_end

PROMPT = [11, 22, 33, 44, 55]


@pytest.fixture(scope="module")
def model(tiny_llama: ModelFolder) -> LoadedModel:
    return load_fp32(tiny_llama)


def reply(engine: Engine, params: SamplingParams, *, seed: int = 0, stop_ids: tuple[int, ...] = ()):
    request = engine.add("reply", PROMPT, params, seed=seed, stop_ids=stop_ids)
    run_to_end(engine)
    return request


def test_max_tokens_defaults_to_the_room_that_is_left(model: LoadedModel) -> None:
    engine = make_engine(model, max_context_tokens=40)
    request = reply(engine, SamplingParams(temperature=0))
    assert request.finish_reason == "length"
    assert request.num_tokens == 40


def test_a_stop_id_ends_the_reply_and_is_named(model: LoadedModel) -> None:
    full = reply(make_engine(model), greedy(10)).output_ids
    stop_id = full[4]
    for params, stop_ids in (
        (SamplingParams(temperature=0, max_tokens=10), (stop_id,)),
        (SamplingParams(temperature=0, max_tokens=10, stop_token_ids=(stop_id,)), ()),
    ):
        request = reply(make_engine(model), params, stop_ids=stop_ids)
        assert request.finish_reason == "stop"
        assert request.stop_reason == stop_id
        assert request.output_ids == full[: full.index(stop_id) + 1]


def test_ignore_eos_ignores_the_models_ends_and_not_the_requests(model: LoadedModel) -> None:
    full = reply(make_engine(model), greedy(10)).output_ids
    request = reply(make_engine(model), greedy(10), stop_ids=(full[4],))
    assert request.output_ids == full
    params = SamplingParams(
        temperature=0, max_tokens=10, ignore_eos=True, stop_token_ids=(full[4],)
    )
    assert reply(make_engine(model), params).finish_reason == "stop"


def test_min_tokens_bars_the_ends_until_then(model: LoadedModel) -> None:
    full = reply(make_engine(model), greedy(10)).output_ids
    params = SamplingParams(temperature=0, max_tokens=10, min_tokens=6)
    request = reply(make_engine(model), params, stop_ids=(full[0],))
    assert full[0] not in request.output_ids[:6]


def test_prompt_logprobs_equal_those_of_a_plain_forward(model: LoadedModel) -> None:
    prompt = list(range(5, 75))
    engine = make_engine(model, max_num_batched_tokens=32)
    params = SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=2)
    requests = [engine.add(str(i), prompt, params, seed=0) for i in range(2)]
    run_to_end(engine)
    logits = plain_logits(model, prompt)
    expected = torch.log_softmax(logits, dim=-1)[:-1].gather(1, torch.tensor(prompt[1:])[:, None])
    for request in requests:
        got = [scores.logprob for scores in request.prompt_logprobs]
        assert got == pytest.approx(expected[:, 0].tolist(), abs=1e-4)
        best = logits[:-1].argmax(dim=-1).tolist()
        assert [scores.top_ids[0] for scores in request.prompt_logprobs] == best


def test_aborting_frees_everything(model: LoadedModel) -> None:
    engine = make_engine(model, num_blocks=32)
    for i in range(4):
        engine.add(str(i), PROMPT * 5, greedy(50), seed=i)
    engine.step()
    engine.step()
    for i in range(4):
        engine.abort(str(i))
        engine.check_integrity()
    assert engine.num_unfinished == 0
    assert engine.step() == []
    engine.abort("never heard of")


def test_a_step_that_raises_fails_its_requests_and_the_engine_lives_on(model: LoadedModel) -> None:
    engine = make_engine(model)
    expected = reply(engine, greedy(8)).output_ids
    doomed = [engine.add(str(i), PROMPT * 10, greedy(8), seed=i) for i in range(3)]

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = model.module.model.layers[1].register_forward_pre_hook(out_of_memory)
    outputs = engine.step()
    hook.remove()
    engine.check_integrity()
    assert [output.finish_reason for output in outputs] == ["error"] * 3
    assert all(request.error == "RuntimeError: out of memory" for request in doomed)
    assert engine.num_unfinished == 0
    assert reply(engine, greedy(8)).output_ids == expected
    again = engine.add("again", PROMPT * 10, greedy(8), seed=0)
    run_to_end(engine)
    assert again.num_cached_tokens == 0, "blocks that were never written must not be shared"


def test_an_interrupted_step_leaves_nothing_that_was_not_computed(model: LoadedModel) -> None:
    """As the stop button of a notebook does."""
    engine = make_engine(model)
    expected = reply(engine, greedy(8)).output_ids
    engine.add("interrupted", PROMPT * 10, greedy(8), seed=0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = model.module.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    hook.remove()
    engine.check_integrity()
    assert engine.num_unfinished == 0
    again = engine.add("again", PROMPT * 10, greedy(8), seed=0)
    run_to_end(engine)
    assert again.num_cached_tokens == 0
    assert reply(engine, greedy(8)).output_ids == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_that_turns_the_model_to_nan_fails_alone_and_leaves_no_trace(
    model: LoadedModel, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=8, ignore_eos=True)
    engine = make_engine(model, num_blocks=8, prefix_sharing=False)
    expected = reply(engine, params).output_ids
    embedding = model.module.get_input_embeddings().weight
    healthy = embedding[300].clone()
    embedding[300] = float("nan")
    poisoned = engine.add("poisoned", [300] * 40, params, seed=0)
    neighbour = engine.add("neighbour", PROMPT, params, seed=0)
    run_to_end(engine)
    embedding[300] = healthy
    assert poisoned.finish_reason == "error"
    assert poisoned.error == "the model gave no finite logits"
    assert neighbour.output_ids == expected
    # The successors get every block that the poisoned request held.
    for number in range(3):
        prompt = PROMPT * (number + 3)
        assert 300 not in prompt
        successor = engine.add(f"successor {number}", prompt, params, seed=0)
        run_to_end(engine)
        assert successor.finish_reason == "length"


def test_end_tokens_beyond_the_vocabulary(model: LoadedModel) -> None:
    """A folder may name such a token, and it never ends anything; a user's is a mistake."""
    engine = make_engine(model)
    params = SamplingParams(temperature=0, max_tokens=4, min_tokens=2)
    request = engine.add("folder's", PROMPT, params, seed=0, stop_ids=(10**6,))
    run_to_end(engine)
    assert request.finish_reason == "length"
    params = SamplingParams(max_tokens=4, stop_token_ids=(10**6,))
    with pytest.raises(ParameterError, match="token id 1000000 is not in the vocabulary"):
        engine.add("user's", PROMPT, params, seed=0)


def test_prompt_logprobs_survive_preemption(model: LoadedModel) -> None:
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, prompt_logprobs=0)
    prompts = [list(range(5 + i, 45 + i)) for i in range(3)]
    alone = make_engine(model)
    crowded = make_engine(model, num_blocks=8)
    scores = []
    for engine in (alone, crowded):
        requests = [engine.add(str(i), p, params, seed=0) for i, p in enumerate(prompts)]
        run_to_end(engine)
        scores.append([[s.logprob for s in request.prompt_logprobs] for request in requests])
    assert crowded.stats.num_preempted > 0
    assert [len(each) for each in scores[1]] == [39, 39, 39]
    for expected, got in zip(*scores, strict=True):
        assert got == pytest.approx(expected, abs=1e-4)


def test_sharing_computes_each_prefix_once(model: LoadedModel) -> None:
    prompts = [[*range(5, 69), *range(100 + i, 110 + i)] for i in range(6)]
    num_computed = {}
    replies = {}
    for is_sharing in (True, False):
        engine = make_engine(model, prefix_sharing=is_sharing)
        requests = [engine.add(str(i), p, greedy(4), seed=i) for i, p in enumerate(prompts)]
        run_to_end(engine)
        num_computed[is_sharing] = engine.stats.num_tokens
        replies[is_sharing] = [request.output_ids for request in requests]
    assert replies[True] == replies[False]
    assert num_computed[False] - num_computed[True] == 5 * 64


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ([], ParameterError, "empty"),
        ([5] * 64, PromptTooLongError, "64 tokens and the context holds 64"),
        ([5, 320], ParameterError, "token id 320 is not in the vocabulary: 0 to 319"),
        ([-1], ParameterError, "token id -1"),
    ],
)
def test_bad_prompts_are_refused_before_anything_is_queued(
    model: LoadedModel, prompt: list[int], error: type[Exception], words: str
) -> None:
    engine = make_engine(model, max_context_tokens=64)
    with pytest.raises(error, match=words):
        engine.add("bad", prompt, greedy(4), seed=0)
    assert engine.num_unfinished == 0


def test_an_id_in_use_is_refused(model: LoadedModel) -> None:
    engine = make_engine(model)
    engine.add("one", PROMPT, greedy(4), seed=0)
    with pytest.raises(ParameterError, match="in use"):
        engine.add("one", PROMPT, greedy(4), seed=0)


def test_random_traces_of_a_real_engine(model: LoadedModel) -> None:
    """Adds, steps, aborts and preempts at random; every finished greedy reply is the right one."""
    oracle = make_engine(model, prefix_sharing=False)
    expected: dict[tuple[int, ...], list[int]] = {}
    num_preempted = 0
    for seed in range(4):
        chance = random.Random(seed)
        engine = make_engine(model, num_blocks=10, max_num_requests=6, max_num_batched_tokens=20)
        requests = []
        for number in range(60):
            action = chance.random()
            if action < 0.35:
                prompt = [chance.choice((7, 9)) for _ in range(chance.randint(1, 60))]
                requests.append(engine.add(str(number), prompt, greedy(12), seed=number))
            elif action < 0.4 and requests:
                engine.abort(chance.choice(requests).request_id)
            else:
                engine.step()
            engine.check_integrity()
        run_to_end(engine)
        num_preempted += engine.stats.num_preempted
        for request in requests:
            if request.finish_reason == "abort":
                continue
            if request.prompt_ids not in expected:
                alone = oracle.add("alone", request.prompt_ids, greedy(12), seed=0)
                run_to_end(oracle)
                expected[request.prompt_ids] = alone.output_ids
            assert request.output_ids == expected[request.prompt_ids]
    assert num_preempted > 0
