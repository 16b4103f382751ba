"""Every architecture runs in bf16 on the native engine, its slow leaves replaced."""

from pathlib import Path

import pytest
import torch

from martlet.engine.params import SamplingParams
from martlet.models.folder import open_folder
from martlet.models.load import load_model
from support.engines import make_engine, run_to_end
from support.tiny_models import ARCHITECTURES, tiny_model_folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_guard_lets_it_pass_and_every_reply_is_whole(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path / architecture))
    model = load_model(folder, dtype=torch.bfloat16, device=torch.device("cpu"))
    engine = make_engine(model, max_num_batched_tokens=40)
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    requests = [
        engine.add(str(length), list(range(5, 5 + length)), params, seed=length)
        for length in (1, 17, 50)
    ]
    run_to_end(engine)
    assert [request.finish_reason for request in requests] == ["length"] * 3
