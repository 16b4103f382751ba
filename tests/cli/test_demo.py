"""`martlet demo`, with a backend in place of the embedded model."""

import json
from pathlib import Path

import pytest

from cli.conftest import Call
from martlet.demo import puzzles_path

pytestmark = pytest.mark.usefixtures("backends")


def test_the_demo_shows_one_sample_beside_the_vote(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo"
    called = call("demo", folder)
    assert called.exit_code == 0, called.stderr
    for piece in ("one sample", "vote of 8", "all"):
        assert piece in called.stdout
    num_rows = len(puzzles_path().read_text(encoding="utf-8").splitlines())
    assert len((folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == num_rows
    assert (folder / "answers.jsonl.report.html").exists()


def test_the_demo_as_json(call: Call, tmp_path: Path) -> None:
    assert json.loads(call("demo", tmp_path, "--json").stdout)["rows"] > 0


def test_a_folder_that_cannot_be_made(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    called = call("demo", tmp_path / "file" / "demo")
    assert called.exit_code == 2
    assert "cannot be made" in called.stderr
