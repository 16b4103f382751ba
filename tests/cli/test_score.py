"""`martlet score` with the embedded model, an adapter, and rows of several formats."""

import json
from itertools import islice
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.demo.rows import training_rows
from martlet.models.folder import open_folder
from martlet.models.resolve import resolve
from support.adapters import make_adapter

NUM_ROWS = 24


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_base_and_adapter_side_by_side(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = written(
        tmp_path / "dev.jsonl", list(islice(training_rows("deduction", seed=9), NUM_ROWS))
    )
    folder = make_adapter(
        tmp_path / "odd", open_folder(resolve("demo")), r=4, target_modules=["q_proj"], scale=0.6
    )
    command = ["score", "demo", "--data", data, "--extract", "letter", "--metric", "accuracy"]
    command += ["--metric", "rouge", "--adapter", f"odd={folder}", "--json"]
    called = call(*command)
    assert called.exit_code == 0, called.stderr
    found = json.loads(called.stdout)
    assert found["questions"] == NUM_ROWS
    accuracy = {
        each["contestant"]: each for each in found["figures"] if "accuracy" in each.values()
    }
    replies = {
        name: [
            json.loads(line)
            for line in (tmp_path / f"dev.score/{name}.jsonl").read_text().splitlines()
        ]
        for name in accuracy
    }
    right = {
        name: [row["reply"].split()[-1][-1] == row["reference"].split()[-1][-1] for row in rows]
        for name, rows in replies.items()
    }
    for name, figure in accuracy.items():
        assert figure["value"] == pytest.approx(sum(right[name]) / NUM_ROWS)
    report = json.loads((tmp_path / "dev.score/score.json").read_text())
    flipped = {each["row"] for each in report["flips"] if each["figure"] == "accuracy"}
    changed = [place for place in range(NUM_ROWS) if right["demo"][place] != right["odd"][place]]
    assert flipped == {place + 1 for place in changed}
    assert flipped
    page = (tmp_path / "dev.score/score.html").read_text()
    assert f"row {min(flipped)}" in page
    again = call(*command)
    assert "0 samples drawn, 24 from an earlier run" in again.stderr
    assert again.stdout == called.stdout
    other = call(*command, "--max-tokens", 5)
    assert other.exit_code == 2
    assert "--overwrite" in other.stderr


def test_what_cannot_be_scored_is_said_before_a_model_loads(call: Call, tmp_path: Path) -> None:
    texts = written(tmp_path / "texts.jsonl", [{"prompt": "Say hello.", "summary": "hello"}])
    missing = tmp_path / "no such model"

    def refused(*arguments: object, data: Path = texts) -> str:
        called = call("score", missing, "--data", data, *arguments)
        assert called.exit_code == 2, called.stderr
        return called.stderr

    assert "line 1: no reply" in refused()
    assert "no column 'gist', which --map names" in refused("--map", "reply=gist")
    mapped = ["--map", "reply=summary"]
    assert "unknown metric 'rouge-9'" in refused(*mapped, "--metric", "rouge-9")
    assert "accuracy needs to know" in refused(*mapped, "--metric", "accuracy")
    assert "two contestants are called" in refused(*mapped, "--against", missing)
    empty = written(
        tmp_path / "empty.jsonl",
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}],
    )
    assert "line 1: its last reply holds no text" in refused(data=empty)
