"""What is dropped becomes lines of a batch, or is refused before anything is sent."""

import json
from pathlib import Path

import pytest

from martlet.errors import InputError

pytest.importorskip("gradio")

from martlet.ui.requests_file import write_requests


def lines_of(tmp_path: Path, name: str, content: str) -> tuple[str, list[dict[str, object]]]:
    source, target = tmp_path / name, tmp_path / "lines.jsonl"
    source.write_text(content, encoding="utf-8")
    endpoint = write_requests(source, target, model="judge", parameters={"temperature": 0})
    return endpoint, [json.loads(line) for line in target.read_text("utf-8").splitlines()]


def test_questions_of_a_table_are_asked(tmp_path: Path) -> None:
    endpoint, (line,) = lines_of(tmp_path, "rows.csv", "id,prompt\nfirst,2 + 2 = ?\n")
    assert endpoint == line["url"] == "/v1/chat/completions"
    assert line["custom_id"] == "first"
    assert line["body"] == {
        "model": "judge",
        "messages": [{"role": "user", "content": "2 + 2 = ?"}],
        "temperature": 0,
    }


def test_requests_are_taken_as_they_are(tmp_path: Path) -> None:
    request = {
        "custom_id": "x",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "demo", "prompt": "Once", "max_tokens": 3},
    }
    endpoint, lines = lines_of(tmp_path, "given.jsonl", json.dumps(request))
    assert (endpoint, lines) == ("/v1/completions", [request])


def test_rows_that_ask_nothing_are_named(tmp_path: Path) -> None:
    rows = '{"prompt": "good"}\n{"colour": "red"}\n'
    with pytest.raises(InputError, match="1 of 2 rows cannot be asked: line 2"):
        lines_of(tmp_path, "rows.jsonl", rows)
    assert not (tmp_path / "lines.jsonl").exists()
