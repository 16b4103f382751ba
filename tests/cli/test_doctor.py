"""`martlet doctor`: the table, the JSON, the exit code."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.models.folder import ModelFolder
from support.adapters import make_adapter


def test_a_sound_set_up(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARTLET_VLLM", raising=False)
    called = call("doctor", "demo", "--json")
    found = {each["subject"]: each for each in json.loads(called.stdout)["findings"]}
    assert called.exit_code == 0, called.stderr
    assert list(found)[:3] == ["python", "packages", "extras"]
    assert {found[each]["state"] for each in ("model", "tokenizer", "template")} == {"ok"}
    for subject in found:
        assert subject in called.stderr


def test_a_fault_has_its_exit_code_and_one_command(
    call: Call, tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llama.path, tmp_path / "model")
    adapter = make_adapter(tmp_path / "judge", tiny_llama, r=4, target_modules=["q_proj"])
    os.truncate(folder / "model.safetensors", 5000)
    called = call("doctor", folder, "--adapter", f"judge={adapter}")
    assert called.exit_code == 4
    lines = called.stderr.splitlines()
    again = "hf download ORG/NAME model.safetensors --force-download"
    assert f"model: {again} --local-dir {folder}" in lines
    assert "adapter judge" in called.stderr
    assert called.stdout == ""


def test_a_url_is_no_model(call: Call) -> None:
    called = call("doctor", "http://127.0.0.1:1/v1")
    assert called.exit_code == 2
    assert "give it as --url" in called.stderr
