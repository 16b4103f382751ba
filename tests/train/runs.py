"""Short runs on the embedded model."""

import json
from itertools import islice
from pathlib import Path

import pytest
import safetensors.torch
import torch

from martlet.demo.rows import training_rows
from martlet.train.config import resolve_config
from martlet.train.job import TrainResult, open_job, run_job

# PEFT and bitsandbytes lag behind what transformers and torch deprecate.
PEFT_WARNINGS = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.checkpoint"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
WEIGHTS = "adapter_model.safetensors"


def write_rows(file: Path, *, count: int, seed: int = 3) -> Path:
    rows = islice(training_rows("turning", seed=seed), count)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def train(rows: Path | str, out: Path, **given: object) -> TrainResult:
    fields = {
        "data": [str(rows)],
        "model": "demo",
        "out": out,
        "precision": "fp32",
        "max_steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup": 0,
        **given,
    }
    return run_job(open_job(resolve_config(fields)))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / WEIGHTS)
