"""The model's hash: moved by every change that matters, and by nothing else."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from martlet.models import fingerprint as subject
from martlet.models.folder import ModelFolder, open_folder
from support.tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(tiny_model_folder("qwen2", tmp_path_factory.mktemp("model")))


def _changed(folder: ModelFolder, into: Path, name: str) -> ModelFolder:
    """A copy whose tensor `name` a training step has moved."""
    tensors = load_file(folder.shards[0].path)
    tensors[name] = tensors[name] + 0.01 * torch.randn_like(tensors[name])
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    (into / "config.json").write_text((folder.path / "config.json").read_text())
    return open_folder(into)


def test_the_same_model_elsewhere_has_the_same_hash(folder: ModelFolder, tmp_path: Path) -> None:
    assert open_folder(tiny_model_folder("qwen2", tmp_path)).model_hash == folder.model_hash


@pytest.mark.parametrize("is_sampled", [False, True])
def test_one_changed_tensor_changes_the_hash(
    is_sampled: bool, folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_sampled:
        monkeypatch.setattr(subject, "WHOLE_FILE_BYTES", 0)
    original = subject.fingerprint(folder.config, folder.shards)
    for number, name in enumerate(folder.tensors):
        copy = tmp_path / str(number)
        copy.mkdir()
        changed = _changed(folder, copy, name)
        assert subject.fingerprint(changed.config, changed.shards) != original, name


def test_a_changed_config_changes_the_hash(folder: ModelFolder) -> None:
    config = {**folder.config, "rope_theta": 5e5}
    assert subject.fingerprint(config, folder.shards) != folder.model_hash


def test_a_large_file_is_sampled_up_to_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"big": torch.zeros(subject.WHOLE_FILE_BYTES, dtype=torch.uint8)}, path)
    (tmp_path / "config.json").write_text("{}")
    original = open_folder(tmp_path).model_hash
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    assert open_folder(tmp_path).model_hash != original
