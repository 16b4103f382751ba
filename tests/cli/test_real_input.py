"""The whole road on real questions: 1,421 of them, with a real model, nested in and nested out.

The model writes children's stories, so its answers are noise; the road is what is tested.
"""

import json
from pathlib import Path

from cli.conftest import Call
from support.shared import SHARED, needs_shared

DATA = SHARED / "data" / "logic" / "round1_train.jsonl"
MODEL = SHARED / "models" / "stories260K"


@needs_shared
def test_every_question_of_a_real_file_is_answered_in_order(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    called = call(
        *("vote", DATA, "--model", MODEL, "--out", out, "--samples", 2, "--json"),
        # The model has no chat template and a short context, and four questions repeat an option.
        *("--raw", "--too-long", "truncate-left", "--allow-repeated-options"),
        *("--max-context", 96, "--max-tokens", 4),
    )
    assert called.exit_code == 0, called.stderr
    assert "cut at the beginning to fit the context" in called.stderr
    given = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    answered = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in answered] == [row["id"] for row in given]
    num_questions = 0
    for row, original in zip(answered, given, strict=True):
        assert row["problem"] == original["problem"]
        for question, asked in zip(row["questions"], original["questions"], strict=True):
            num_questions += 1
            assert question["question"] == asked["question"]
            assert question["options"] == asked["options"]
            assert question["expected"] == asked["answer"]
            assert question["answer"] is None or question["answer"] in "ABCDEFG"
    assert num_questions == 1421
    summary = json.loads(called.stdout)
    assert summary["rows"] == 500
    assert summary["questions"] == 1421
    assert summary["failed"] == 0
    assert summary["samples_drawn"] + summary["samples_saved"] == 2842
    for suffix in ("card.json", "report.md", "report.html", "journal"):
        assert Path(f"{out}.{suffix}").exists()
