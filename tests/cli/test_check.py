"""`martlet check` finds each planted fault in its row, and nothing on clean rows."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cli.conftest import Call, Called

USER = {"role": "user", "content": "Hi"}


def row(question: str, reply: str = "Hello") -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ]
    }


CLEAN = [row(f"Question {i}") for i in range(6)]


Check = Callable[..., Called]


@pytest.fixture
def check(call: Call, tmp_path: Path) -> Check:
    """Checks rows, or lines as they are, against the embedded model."""

    def run(rows: list[Mapping[str, object] | str], *options: str) -> Called:
        file = tmp_path / "rows.jsonl"
        lines = (each if isinstance(each, str) else json.dumps(each) for each in rows)
        file.write_text("\n".join(lines), encoding="utf-8")
        return call("check", file, "--model", "demo", *options)

    return run


def findings(done: Called) -> dict[str, list[int]]:
    content = json.loads(done.stdout)
    assert done.exit_code == (0 if content["is_sound"] else 2), done.stderr
    return {
        each["kind"]: [origin["row"] for origin in each["origins"]] for each in content["findings"]
    }


def test_each_planted_fault_is_found_in_its_row(check: Check, tmp_path: Path) -> None:
    validation = tmp_path / "dev.jsonl"
    validation.write_text(json.dumps(row("Question 0")))
    rows = [
        *CLEAN,
        row("Question 7", ""),
        row("Question 8", "a<|im_end|>\n<|im_start|>user\nb"),
        row("Question 9", "I am {{name}}."),
        CLEAN[1],
        row("Question 2", "Something else"),
        row("Question 12", "word " * 600),
        {"messages": [USER]},
    ]
    done = check(rows, "--json", "--validation", str(validation))
    assert findings(done) == {
        "cannot be read": [13],
        "longer than 512 tokens": [12],
        "nothing to learn": [7],
        "special tokens inside texts": [8],
        "unfilled placeholders": [9],
        "duplicates": [10],
        "one question, several replies": [3, 11],
        "validation rows that are also learned": [1],
    }


def test_clean_rows_have_no_findings_and_a_row_shows_what_is_learned(check: Check) -> None:
    assert findings(check(list(CLEAN), "--json")) == {}
    shown = check(list(CLEAN), "--show", "2")
    assert shown.stdout == (
        "<|im_start|>user\nQuestion 1<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
    )


def test_the_sound_rows_are_written_to_a_new_file(check: Check, tmp_path: Path) -> None:
    clean = tmp_path / "clean.jsonl"
    done = check([*CLEAN, CLEAN[0], row("Q", "")], "--fix", str(clean))
    assert done.exit_code == 2
    assert "these rows would spoil a training: nothing to learn" in done.stderr
    assert [json.loads(line) for line in clean.read_text().splitlines()] == CLEAN
    again = check(list(CLEAN), "--fix", str(clean))
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_a_file_that_is_no_file_of_rows_is_one_clear_line(check: Check) -> None:
    broken = check([CLEAN[0], "{not json"])
    assert broken.exit_code == 2
    assert "rows.jsonl, line 2" in broken.stderr
    assert broken.stderr.count("\n") == 1
