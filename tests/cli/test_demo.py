"""`martlet demo`: the embedded model answers the embedded puzzles, as a stranger first sees it."""

import json
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.demo import puzzles_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "demo"


def test_the_vote_is_clearly_better_than_one_sample(call: Call, folder: Path) -> None:
    called = call("demo", folder, "--json")
    assert called.exit_code == 0, called.stderr
    summary = json.loads(called.stdout)
    assert 0.6 <= summary["single_accuracy"] <= 0.85
    assert summary["accuracy"] >= summary["single_accuracy"] + 0.05
    assert summary["samples_saved"] > 0
    assert summary["cut_by_length"] == 0
    num_rows = len(puzzles_path().read_text(encoding="utf-8").splitlines())
    assert summary["rows"] == num_rows
    assert len((folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == num_rows
    assert (folder / "answers.jsonl.report.html").exists()


def test_a_second_time_nothing_is_drawn_and_the_table_is_shown(call: Call, folder: Path) -> None:
    called = call("demo", folder)
    assert called.exit_code == 0, called.stderr
    for piece in ("one sample", "vote of 8", "all"):
        assert piece in called.stdout
    assert " 0 samples drawn" in called.stderr


def test_a_folder_that_cannot_be_made(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    called = call("demo", tmp_path / "file" / "demo")
    assert called.exit_code == 2
    assert "cannot be made" in called.stderr
