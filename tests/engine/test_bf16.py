"""Every architecture runs in bf16 on the native engine, its slow leaves replaced."""

import pytest
import torch

from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from martlet.models.load import LoadedModel, load_model
from support.engines import make_engine, run_to_end
from support.tiny_models import ARCHITECTURES, tiny_model_folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny_model_folder(request.param, tmp_path_factory.mktemp("bf16") / request.param)
    return load_model(open_folder(folder), dtype=torch.bfloat16, device=torch.device("cpu"))


def test_the_guard_lets_it_pass_and_every_reply_is_whole(model: LoadedModel) -> None:
    engine = make_engine(model, max_num_batched_tokens=40)
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    requests = [
        engine.add(str(length), list(range(5, 5 + length)), params, seed=length)
        for length in (1, 17, 50)
    ]
    run_to_end(engine)
    assert [request.finish_reason for request in requests] == ["length"] * 3


def test_a_crowd_gets_the_same_logits(model: LoadedModel) -> None:
    engine = make_engine(model)
    prompt = tuple(range(5, 55))
    few = engine.logits(prompt).float()
    model.compile_for_crowd()
    many = engine.logits(prompt).float()
    assert (many - few).norm() < 0.02 * few.norm()
