"""`martlet diff` on results of real runs of the embedded model."""

import json
from itertools import islice
from pathlib import Path

import pytest

from batch.lines import read_lines, write_lines
from cli.conftest import Call
from martlet.demo import puzzles_path
from martlet.demo.rows import training_rows
from martlet.models.folder import open_folder
from martlet.models.resolve import resolve
from support.adapters import make_adapter

NUM_ROWS = 6


@pytest.fixture
def puzzles(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "puzzles.jsonl", read_lines(puzzles_path())[:NUM_ROWS])


def voted(call: Call, data: Path, out: Path, *options: object) -> list[dict[str, object]]:
    command = ["vote", data, "--model", "demo", "--samples", 4, "--early-stop", "off"]
    called = call(*command, "--out", out, *options)
    assert called.exit_code == 0, called.stderr
    return [question for row in read_lines(out) for question in row["questions"]]


def test_votes_that_flipped_and_the_settings_that_differ(
    call: Call, puzzles: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    before = voted(call, puzzles, first, "--temperature", 0.5)
    after = voted(call, puzzles, second, "--temperature", 1.8, "--seed", 5)
    called = call("diff", first, second, "--json")
    assert called.exit_code == 0, called.stderr
    found = json.loads(called.stdout)
    pairs = list(zip(before, after, strict=True))
    flipped = [(a, b) for a, b in pairs if a["answer"] != b["answer"]]
    assert flipped
    assert [found["num_compared"], len(found["flips"])] == [len(pairs), len(flipped)]
    judgement = found["judgement"]
    assert judgement["num_worse"] == sum(a["is_right"] > b["is_right"] for a, b in pairs)
    assert judgement["num_right_second"] == sum(bool(b["is_right"]) for b in after)
    assert [each["name"] for each in found["settings"]] == ["temperature", "seed"]
    assert found["settings"][0]["second"] == "1.8"
    gains = [
        bool(each["second"]["is_right"]) - bool(each["first"]["is_right"])
        for each in found["flips"]
    ]
    assert gains == sorted(gains, key=lambda gain: (gain == 0, gain))
    assert f"flipped: {len(flipped)} of {len(pairs)} questions" in called.stderr


def test_the_same_run_twice(call: Call, puzzles: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for out in outs:
        voted(call, puzzles, out)
    found = json.loads(call("diff", *outs, "--json").stdout)
    assert (found["flips"], found["settings"]) == ([], [])
    assert found["redraw_p_value"] == 1
    assert found["is_beyond_chance"] is False


def test_an_adapter_is_named_and_counts_agree_with_the_score(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = list(islice(training_rows("deduction", seed=9), 4 * NUM_ROWS))
    data = write_lines(tmp_path / "dev.jsonl", rows)
    folder = make_adapter(
        tmp_path / "odd", open_folder(resolve("demo")), r=4, target_modules=["q_proj"], scale=0.6
    )
    score = ["score", "demo", "--data", data, "--adapter", f"odd={folder}", "--extract", "letter"]
    scored = json.loads(call(*score, "--metric", "accuracy", "--json").stdout)
    difference = scored["figures"][1]["difference"]
    results = [tmp_path / "dev.score" / f"{name}.jsonl" for name in ("demo", "odd")]
    found = json.loads(call("diff", *results, "--extract", "letter", "--json").stdout)
    assert [each["name"] for each in found["settings"]] == ["adapter"]
    assert found["settings"][0]["first"] == "none"
    assert found["judgement"]["num_better"] == difference["better"]
    assert found["judgement"]["num_worse"] == difference["worse"]
    assert found["judgement"]["p_value"] == difference["p_value"]
    as_they_are = json.loads(call("diff", *results, "--json").stdout)
    assert len(as_they_are["flips"]) >= len(found["flips"]) > 0


def test_what_cannot_be_compared_is_said(call: Call, puzzles: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    voted(call, puzzles, out)
    missing = call("diff", out, other)
    assert (missing.exit_code, "no such result" in missing.stderr) == (3, True)
    other.write_text("{}\n")
    without = call("diff", out, other)
    assert (without.exit_code, "no run card" in without.stderr) == (3, True)
    card = Path(f"{out}.card.json").read_text()
    Path(f"{other}.card.json").write_text(card)
    strange = call("diff", out, other)
    assert (strange.exit_code, "line 1: this is no row" in strange.stderr) == (2, True)
    other.write_text('{"prompt": "Why?", "reply": "So."}\n')
    apart = call("diff", out, other)
    assert (apart.exit_code, "no question in common" in apart.stderr) == (2, True)
    Path(f"{other}.card.json").write_text(card.replace('"complete"', '"interrupted"'))
    unfinished = call("diff", out, other)
    assert (unfinished.exit_code, "is not finished" in unfinished.stderr) == (2, True)
