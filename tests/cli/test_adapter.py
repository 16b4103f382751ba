"""`--adapter`: one adapter answers a whole run, and its revision belongs to the run's identity."""

import json
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.models.folder import ModelFolder
from support.adapters import make_adapter


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n', encoding="utf-8")
    return path


def replies(out: Path) -> list[str]:
    return [json.loads(line)["reply"] for line in out.read_text(encoding="utf-8").splitlines()]


def test_a_run_by_an_adapter(
    call: Call, data: Path, tmp_path: Path, tiny_llama: ModelFolder
) -> None:
    adapter = make_adapter(tmp_path / "judge", tiny_llama, r=4, target_modules="all-linear")
    common = ["-m", tiny_llama.path, "--temperature", 0, "--max-tokens", 8, "--kv-memory", 0.05]
    out, plain = tmp_path / "out.jsonl", tmp_path / "plain.jsonl"
    named = ["generate", data, "-o", out, *common, "--adapter", f"judge={adapter}"]
    first = call(*named)
    assert first.exit_code == 0, first.stderr
    assert call("generate", data, "-o", plain, *common).exit_code == 0
    assert replies(out) != replies(plain)
    card = json.loads(Path(f"{out}.card.json").read_text(encoding="utf-8"))["model"]
    assert card["adapter"] == "judge"
    assert card["adapter_proof"].startswith("tensors 28/28, probe KL ")
    assert call(*named).exit_code == 0
    assert len(card["adapter_hash"]) == 16

    make_adapter(tmp_path / "judge", tiny_llama, seed=1, r=4, target_modules="all-linear")
    changed = call(*named)
    assert changed.exit_code == 2
    assert "was made by generate with" in changed.stderr
    assert call(*named, "--overwrite").exit_code == 0
    again = json.loads(Path(f"{out}.card.json").read_text(encoding="utf-8"))["model"]
    assert again["adapter_hash"] != card["adapter_hash"]


def test_an_adapter_needs_a_name_and_a_folder(
    call: Call, data: Path, tmp_path: Path, tiny_llama: ModelFolder
) -> None:
    for given in ("judge", "=judge", "judge="):
        called = call(
            "generate", data, "-m", tiny_llama.path, "-o", tmp_path / "o.jsonl", "--adapter", given
        )
        assert called.exit_code == 2
        assert f"--adapter takes NAME=DIR, such as judge=./judge, not {given!r}" in called.stderr
