"""`martlet generate` from a file to a file."""

import json
from pathlib import Path

from cli.conftest import Call


def test_each_row_gets_its_reply(call: Call, tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text('{"prompt": "one"}\n{"prompt": "two"}\n', encoding="utf-8")
    called = call("generate", data, "-m", "demo", "-o", out, "--max-tokens", 8, "--json")
    assert called.exit_code == 0, called.stderr
    replies = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in replies] == ["one", "two"]
    assert all(isinstance(row["reply"], str) for row in replies)
    summary = json.loads(called.stdout)
    assert (summary["rows"], summary["samples_drawn"]) == (2, 2)
    assert summary["accuracy"] is None
    assert f"replies  {out}\n" in called.stderr


def test_several_replies_a_row(call: Call, tmp_path: Path) -> None:
    data, out = tmp_path / "data.txt", tmp_path / "out.jsonl"
    data.write_text("one\n", encoding="utf-8")
    assert (
        call("generate", data, "-m", "demo", "-o", out, "-n", 3, "--max-tokens", 8).exit_code == 0
    )
    assert len(json.loads(out.read_text(encoding="utf-8"))["replies"]) == 3
