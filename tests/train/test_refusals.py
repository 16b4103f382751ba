"""What cannot be trained is said in one clear line."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from martlet.demo import model_path
from martlet.errors import MissingExtraError, ParameterError, ResourceError, TemplateError
from train.runs import PEFT_WARNINGS, train

pytestmark = PEFT_WARNINGS


def test_what_is_missing_is_one_clear_line(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", exhaust)
        with pytest.raises(ResourceError, match="--batch-size") as refusal:
            train(rows, tmp_path / "small")
    for setting in ("--checkpointing", "--max-length"):
        assert setting in str(refusal.value)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ParameterError, match="pip install wandb"):
        train(rows, tmp_path / "told", report=["wandb"])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"martlet\[train\]"):
        train(rows, tmp_path / "four", qlora=True)
    assert not (tmp_path / "four").exists()


def test_a_base_without_a_template_is_refused(rows: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model_path(), bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(TemplateError, match="no chat template"):
        train(rows, tmp_path / "run", model=str(bare))
