"""Greedy replies in fp32, token for token with transformers' own `generate`.

Every architecture, and each way in which a request's tokens may come to be computed.
"""

from dataclasses import dataclass

import pytest
import torch

from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel
from support.engines import (
    Reply,
    assert_same,
    greedy,
    greedy_reply,
    load_fp32,
    load_reference,
    make_engine,
    run_to_end,
)
from support.shared import SHARED
from support.tiny_models import ARCHITECTURES, tiny_model_folder

STORIES = "stories260K"
PROMPT_LENGTHS = (1, 7, 16, 33, 80)
"""Shorter and longer than a block of 16 and than the tiny models' windows of 32."""
NUM_TOKENS = 20


@dataclass(frozen=True)
class Case:
    """A loaded model, prompts, and transformers' replies to them."""

    model: LoadedModel
    prompts: list[list[int]]
    replies: list[Reply]


@pytest.fixture(scope="module", params=[*ARCHITECTURES, STORIES])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name: str = request.param
    if name == STORIES:
        path = SHARED / "models" / STORIES
        if not path.is_dir():
            pytest.skip(f"no model in {path}")
    else:
        path = tiny_model_folder(name, tmp_path_factory.mktemp("tiny") / name)
    folder = open_folder(path)
    model, reference = load_fp32(folder), load_reference(folder)
    generator = torch.Generator().manual_seed(1)
    longest = model.max_context_tokens - NUM_TOKENS
    prompts = [
        torch.randint(5, 300, (min(length, longest),), generator=generator).tolist()
        for length in PROMPT_LENGTHS
    ]
    return Case(model, prompts, [greedy_reply(reference, p, NUM_TOKENS) for p in prompts])


def test_alone(case: Case) -> None:
    for prompt, reply in zip(case.prompts, case.replies, strict=True):
        engine = make_engine(case.model)
        request = engine.add("alone", prompt, greedy(NUM_TOKENS), seed=0)
        run_to_end(engine)
        assert_same(request, reply)


def test_in_a_crowd_of_32(case: Case) -> None:
    engine = make_engine(case.model)
    requests = [
        engine.add(f"own {i}", prompt, greedy(NUM_TOKENS), seed=i)
        for i, prompt in enumerate(case.prompts)
    ]
    generator = torch.Generator().manual_seed(2)
    for i in range(32 - len(requests)):
        prompt = torch.randint(5, 300, (3 + i,), generator=generator).tolist()
        params = SamplingParams(temperature=1.5, max_tokens=5 + i, ignore_eos=True, top_p=0.9)
        engine.add(f"other {i}", prompt, params, seed=i)
    run_to_end(engine)
    for request, reply in zip(requests, case.replies, strict=True):
        assert_same(request, reply)


def test_in_chunks(case: Case) -> None:
    engine = make_engine(case.model, max_num_requests=5, max_num_batched_tokens=9)
    requests = [
        engine.add(str(i), prompt, greedy(NUM_TOKENS), seed=i)
        for i, prompt in enumerate(case.prompts)
    ]
    run_to_end(engine)
    for request, reply in zip(requests, case.replies, strict=True):
        assert_same(request, reply)


def test_after_a_prefix_hit(case: Case) -> None:
    engine = make_engine(case.model)
    engine.add("first", case.prompts[-1], greedy(NUM_TOKENS), seed=0)
    run_to_end(engine)
    requests = [engine.add(str(i), case.prompts[-1], greedy(NUM_TOKENS), seed=i) for i in range(3)]
    run_to_end(engine)
    num_shared = (len(case.prompts[-1]) - 1) // 16 * 16
    for request in requests:
        assert request.num_cached_tokens == num_shared > 0
        assert_same(request, case.replies[-1])


def test_after_preemption(case: Case) -> None:
    longest = max(len(prompt) for prompt in case.prompts) + NUM_TOKENS
    engine = make_engine(case.model, num_blocks=-(-longest // 16) + 1)
    requests = [
        engine.add(str(i), prompt, greedy(NUM_TOKENS), seed=i)
        for i, prompt in enumerate(case.prompts + case.prompts[::-1])
    ]
    run_to_end(engine)
    assert engine.stats.num_preempted > 0
    for request, reply in zip(requests, case.replies + case.replies[::-1], strict=True):
        assert_same(request, reply)
