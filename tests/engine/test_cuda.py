"""The same engine on a CUDA device; skipped where there is none."""

import pytest
import torch

from martlet.models.folder import ModelFolder
from martlet.models.load import load_model
from support.engines import (
    assert_same,
    greedy,
    greedy_reply,
    load_reference,
    make_engine,
    run_to_end,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_greedy_replies_in_fp32_equal_transformers(tiny_llama: ModelFolder) -> None:
    model = load_model(tiny_llama, dtype=torch.float32, device=torch.device("cuda"))
    reference = load_reference(tiny_llama)
    prompts = [list(range(5, 5 + length)) for length in (1, 16, 50)]
    engine = make_engine(model, max_num_batched_tokens=40)
    requests = [engine.add(str(i), p, greedy(12), seed=i) for i, p in enumerate(prompts)]
    run_to_end(engine)
    for request, prompt in zip(requests, prompts, strict=True):
        assert_same(request, greedy_reply(reference, prompt, 12), tolerance=1e-3)
