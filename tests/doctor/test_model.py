"""Faults of a model's folder, planted in real ones; a remedy that is a whole command is run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from martlet.doctor.finding import Finding, exit_code_of
from martlet.doctor.model import ModelExamination
from martlet.models.folder import ModelFolder
from support.tiny_models import CHAT_TEMPLATE, END_OF_TEXT


@pytest.fixture
def folder(tiny_llama: ModelFolder, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(tiny_llama.path, tmp_path / "model")


def examined(name: str | Path) -> dict[str, Finding]:
    return {each.subject: each for each in ModelExamination(str(name)).findings()}


def test_a_sound_folder(tiny_llama: ModelFolder) -> None:
    examination = ModelExamination(str(tiny_llama.path))
    findings = list(examination.findings())
    assert [each.state for each in findings] == ["ok"] * 5
    assert exit_code_of(findings) == 0
    assert examination.model is not None
    assert examination.model.folder.model_hash == tiny_llama.model_hash


def test_truncated_shard(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    findings = examined(folder)
    assert list(findings) == ["model"]
    fault = findings["model"]
    assert (fault.state, fault.exit_code) == ("fault", 4)
    assert "model.safetensors is cut short" in fault.what
    assert fault.remedy == (
        f"hf download ORG/NAME model.safetensors --force-download --local-dir {folder}"
    )


def test_truncated_shard_among_the_downloads(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--fruit--apple-1b" / "snapshots" / "0a1b"
    shutil.copytree(folder, snapshot)
    (snapshot / "model.safetensors").write_bytes(b"\0" * 9)
    again = "hf download fruit/apple-1b model.safetensors --force-download"
    assert examined(snapshot)["model"].remedy == again
    (snapshot / "model.safetensors").unlink()
    assert examined(snapshot)["model"].remedy == "hf download fruit/apple-1b"


def test_vocabulary_mismatch(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(folder)
    findings = examined(folder)
    assert [each.subject for each in findings.values() if each.state == "fault"] == ["tokenizer"]
    fault = findings["tokenizer"]
    assert (fault.state, fault.exit_code) == ("fault", 4)
    assert "the first token without a row is '<|extra|>'" in fault.what
    assert fault.remedy is not None
    assert fault.remedy.endswith(f" --force-download --local-dir {folder}")
    begin, *patterns = fault.remedy.partition(" --force")[0].split(" --include ")
    assert begin == "hf download ORG/NAME"
    # `hf` takes one pattern each time, and what stands behind it for the name of a file.
    assert patterns == ["'token*'", "'special*'", "'*.model'", "'vocab*'", "'merges*'"]


def with_bos(folder: Path, template: str) -> None:
    """Gives a folder a BOS token, and a template that writes what it is told."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = END_OF_TEXT
    tokenizer.chat_template = template + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("twice", ["{{ bos_token }}<|endoftext|>", 2 * "<|endoftext|>"])
def test_two_bos(folder: Path, twice: str) -> None:
    with_bos(folder, twice)
    warning = examined(folder)["template"]
    assert warning.state == "warning"
    assert "it writes two BOS tokens (<|endoftext|>)" in warning.what
    assert warning.remedy is not None
    subprocess.run(warning.remedy, shell=True, check=True)
    assert examined(folder)["template"].state == "ok"
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert text.count(END_OF_TEXT) == 1


def test_broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}")
    fault = examined(folder)["template"]
    assert (fault.state, fault.exit_code) == ("fault", 2)
    assert "not valid Jinja" in fault.what
    assert fault.remedy == f"martlet chat {folder} --chat-template FILE"


def test_a_model_that_does_not_fit_in_memory(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    # Keys and values of so many layers outgrow any machine.
    config |= {"num_hidden_layers": 10**9}
    (folder / "config.json").write_text(json.dumps(config))
    fault = examined(folder)["room"]
    assert (fault.state, fault.exit_code) == ("fault", 6)
    assert fault.remedy == f"martlet quantize {folder} --bits 4 --out SMALLER"


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    fault = examined("fruit/apple-1b")["model"]
    assert (fault.state, fault.exit_code) == ("fault", 3)
    assert fault.remedy == "hf download fruit/apple-1b"
    assert examined("./no-such")["model"].remedy == "find . -name config.json"
