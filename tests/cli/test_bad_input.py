"""Bad input: one clear line, the right exit code, and nothing written or computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.models.folder import ModelFolder

GOOD_ROW = {"question": "Who sits first?", "options": ["Ann", "Bo"]}


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def with_too_large_a_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "exit_code", "words"),
    [
        (shutil.rmtree, 3, "no such model folder"),
        (without_config, 4, "config.json"),
        (truncated, 4, "download"),
        (with_too_large_a_tokenizer, 4, "embedding has 320 rows"),
    ],
)
def test_a_bad_model_folder(
    spoil: Callable[[Path], None],
    exit_code: int,
    words: str,
    call: Call,
    tiny_llama: ModelFolder,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama.path, folder)
    spoil(folder)
    data = write(tmp_path / "data.jsonl", GOOD_ROW)
    refused(call, data, folder, exit_code=exit_code, words=words)


REPEATED = {"question": "Who?", "options": ["Ann", "Ann"]}
LONG = {"question": "Who sits first? " * 200, "options": ["Ann", "Bo"]}


@pytest.mark.parametrize(
    ("rows", "arguments", "exit_code", "words"),
    [
        ([*[GOOD_ROW] * 16, "{oops"], [], 2, "line 17: invalid JSON"),
        ([GOOD_ROW, {"options": ["Ann", "Bo"]}], [], 2, "line 2"),
        ([REPEATED], [], 2, "options repeat: A and B are both 'Ann'"),
        ([LONG], [], 2, "the model's context holds 512"),
        ([GOOD_ROW], ["--top-p", "1.7"], 2, "top_p must be from 0 to 1, not 1.7"),
        ([GOOD_ROW], ["--top-q", "0.5"], 2, "No such option: --top-q"),
        ([GOOD_ROW], ["--temperature", "0"], 2, "all 8 samples of a question the same"),
        ([GOOD_ROW], ["--extract", "colour"], 2, "colour"),
        ([GOOD_ROW], ["--kv-memory", "-1"], 2, "kv_memory_gib must be above 0"),
        ([GOOD_ROW], ["--max-context", "9999"], 2, "allows 512"),
        ([GOOD_ROW], ["--prompt-template", "nowhere.jinja"], 3, "nowhere.jinja"),
    ],
)
def test_bad_rows_and_parameters(
    rows: list[object],
    arguments: list[str],
    exit_code: int,
    words: str,
    call: Call,
    tiny_llama: ModelFolder,
    tmp_path: Path,
) -> None:
    data = write(tmp_path / "data.jsonl", *rows)
    refused(call, data, tiny_llama.path, *arguments, exit_code=exit_code, words=words)


def test_no_such_file(call: Call, tiny_llama: ModelFolder, tmp_path: Path) -> None:
    refused(call, tmp_path / "none.jsonl", tiny_llama.path, exit_code=3, words="none.jsonl")


def test_no_room_on_the_disk(call: Call, tiny_llama: ModelFolder, tmp_path: Path) -> None:
    rows = [{"prompt": "Hello"}] * 100
    data, out = write(tmp_path / "data.jsonl", *rows), tmp_path / "out.jsonl"
    options = ("--model", tiny_llama.path, "--out", out, "--samples", 2**31 - 1)
    called = call("generate", data, *options)
    assert called.exit_code == 6, called.stderr
    assert "result may need" in called.stderr.splitlines()[-1]
    assert not out.exists()


def refused(
    call: Call, data: Path, model: Path, *arguments: str, exit_code: int, words: str
) -> None:
    out = data.parent / "answers.jsonl"
    called = call("vote", data, "--model", model, "--out", out, *arguments)
    assert called.exit_code == exit_code, called.stderr
    errors = [line for line in called.stderr.splitlines() if words in line]
    assert len(errors) == 1, called.stderr
    assert "Traceback" not in called.stderr
    assert not out.exists()
    assert not Path(f"{out}.journal").exists()
