"""The same commands over a server: named by a URL, or beside one."""

import json
from pathlib import Path

import pytest

from batch.lines import read_lines, write_lines
from cli.conftest import Call
from serve.servers import load_demo, serving

ROWS = [{"prompt": f"Ann has {i} apples. Who has them?"} for i in range(3)]


def test_a_server_answers_a_file_under_either_name(call: Call, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "rows.jsonl", ROWS)
    unused = tmp_path / "unused.jsonl"
    options = ["--max-tokens", "8", "--temperature", "0.7", "--ignore-eos", "--json"]
    backend = load_demo()
    with serving(backend) as running:
        url = f"{running.url}/v1"
        names = (["--model", f"{url}#demo"], ["--model", "demo", "--base-url", url])
        outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        called = [
            call("generate", data, *name, "--out", out, *options)
            for name, out in zip(names, outs, strict=True)
        ]
        strange = call(
            "generate", data, "--model", f"{url}#demo", "--dtype", "bf16", "--out", unused
        )
    backend.close()
    assert [done.exit_code for done in called] == [0, 0], called
    assert json.loads(called[0].stdout)["generated_tokens"] == 24
    assert read_lines(outs[0]) == read_lines(outs[1])
    card = json.loads(Path(f"{outs[0]}.card.json").read_text())
    assert card["model"]["model"] == f"{url}#demo"
    assert strange.exit_code == 2
    assert "dtype='bf16' has no effect on the openai backend" in strange.stderr


def test_vllm_is_looked_for_where_the_environment_says(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_lines(tmp_path / "rows.jsonl", ROWS)
    monkeypatch.setenv("MARTLET_VLLM", str(tmp_path / "no" / "vllm"))
    called = call(
        "generate", data, "--model", "demo", "--backend", "vllm", "--out", tmp_path / "a.jsonl"
    )
    assert called.exit_code == 3
    assert f"there is no program '{tmp_path / 'no' / 'vllm'}'" in called.stderr
