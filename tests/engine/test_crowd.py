"""For a narrow model something is compiled when many requests come, and not before."""

import pytest
import torch

from martlet.demo import model_path
from martlet.engine.engine import CROWD, Engine
from martlet.engine.kv_cache import KVCache
from martlet.engine.params import SamplingParams
from martlet.models.compiled.threads import can_compile
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel, load_model
from support.engines import make_engine, run_to_end

PROMPT = list(range(5, 45))


def load_demo(dtype: torch.dtype) -> LoadedModel:
    return load_model(open_folder(model_path()), dtype=dtype, device=torch.device("cpu"))


def draw(engine: Engine, count: int) -> None:
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    for index in range(count):
        engine.add(str(index), [*PROMPT, index], params, seed=index)
    run_to_end(engine)


def is_compiled(model: LoadedModel) -> bool:
    cache = KVCache(
        model.layers, num_blocks=1, block_size=16, dtype=model.dtype, device=model.device
    )
    return cache.panels(0) is not None


@pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
def test_a_crowd_is_computed_by_compiled_functions_as_exactly_as_a_few() -> None:
    oracle = make_engine(load_demo(torch.float32)).logits(tuple(PROMPT))
    model = load_demo(torch.bfloat16)
    engine = make_engine(model, num_blocks=CROWD * 3, max_num_requests=CROWD)

    draw(engine, CROWD - 1)
    assert not is_compiled(model)
    few = (engine.logits(tuple(PROMPT)) - oracle).norm()

    draw(engine, CROWD)
    assert is_compiled(model)
    many = (engine.logits(tuple(PROMPT)) - oracle).norm()
    assert 0 < many < 1.2 * few


def test_nothing_is_compiled_for_a_crowd_in_fp32() -> None:
    model = load_demo(torch.float32)
    draw(make_engine(model, num_blocks=CROWD * 3, max_num_requests=CROWD), CROWD)
    assert not is_compiled(load_demo(torch.bfloat16))
