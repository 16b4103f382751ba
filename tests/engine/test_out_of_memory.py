"""A device that runs out of memory: smaller steps, the same replies."""

import pytest
import torch
from torch import Tensor

from martlet.engine.batch import LogitRows
from martlet.engine.plan import StepPlan
from martlet.engine.runner import StepRunner
from martlet.models.folder import ModelFolder
from support.engines import greedy, load_fp32, make_engine, run_to_end


class NarrowRunner:
    """The engine's own runner, on a device with memory for a few tokens a step."""

    def __init__(self, runner: StepRunner, max_num_tokens: int) -> None:
        self.cache = runner.cache
        self._runner = runner
        self._max_num_tokens = max_num_tokens

    def run(self, plan: StepPlan) -> tuple[LogitRows, Tensor]:
        if plan.num_tokens > self._max_num_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._runner.run(plan)


@pytest.mark.parametrize("max_num_tokens", [1, 3, 20])
def test_steps_shrink_until_they_fit(tiny_llama: ModelFolder, max_num_tokens: int) -> None:
    """Some of the requests begin with the blocks that others are writing in the same step."""
    prompts = [[*range(5, 40), *range(50 + i, 55)] for i in range(4)]
    replies = []
    for is_narrow in (False, True):
        engine = make_engine(load_fp32(tiny_llama))
        if is_narrow:
            engine._runner = NarrowRunner(engine._runner, max_num_tokens)
        requests = [engine.add(str(i), p, greedy(5), seed=i) for i, p in enumerate(prompts)]
        run_to_end(engine)
        assert [request.finish_reason for request in requests] == ["length"] * 4
        replies.append([request.output_ids for request in requests])
    assert replies[0] == replies[1]


def test_a_step_that_cannot_be_cut_fails_its_request_alone(tiny_llama: ModelFolder) -> None:
    engine = make_engine(load_fp32(tiny_llama))
    whole = engine._runner
    engine._runner = NarrowRunner(whole, 0)
    lost = engine.add("lost", [5, 6, 7], greedy(3), seed=0)
    run_to_end(engine)
    assert lost.finish_reason == "error"
    assert "out of memory" in (lost.error or "")
    engine._runner = whole
    next_one = engine.add("next", [5, 6, 7], greedy(3), seed=0)
    run_to_end(engine)
    assert next_one.finish_reason == "length"
