"""`martlet check` finds each planted fault in its row, and nothing on clean rows."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MAIN = [sys.executable, "-m", "martlet.cli.main", "check"]
USER = {"role": "user", "content": "Hi"}


def row(question: str, reply: str = "Hello") -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ]
    }


CLEAN = [row(f"Question {i}") for i in range(6)]


def check(
    folder: Path, rows: list[Mapping[str, object] | str], *options: str
) -> subprocess.CompletedProcess[str]:
    file = folder / "rows.jsonl"
    lines = (each if isinstance(each, str) else json.dumps(each) for each in rows)
    file.write_text("\n".join(lines), encoding="utf-8")
    command = [*MAIN, str(file), "--model", "demo", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def findings(
    folder: Path, rows: list[Mapping[str, object] | str], *options: str
) -> dict[str, list]:
    done = check(folder, rows, "--json", *options)
    content = json.loads(done.stdout)
    assert done.returncode == (0 if content["is_sound"] else 2), done.stderr
    return {
        each["kind"]: [origin["row"] for origin in each["origins"]] for each in content["findings"]
    }


def test_each_planted_fault_is_found_in_its_row(tmp_path: Path) -> None:
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
    assert findings(tmp_path, rows, "--validation", str(validation)) == {
        "cannot be read": [13],
        "longer than 512 tokens": [12],
        "nothing to learn": [7],
        "special tokens inside texts": [8],
        "unfilled placeholders": [9],
        "duplicates": [10],
        "one question, several replies": [3, 11],
        "validation rows that are also learned": [1],
    }


def test_clean_rows_have_no_findings_and_a_row_shows_what_is_learned(tmp_path: Path) -> None:
    assert findings(tmp_path, list(CLEAN)) == {}
    shown = check(tmp_path, list(CLEAN), "--show", "2")
    assert shown.stdout == (
        "<|im_start|>user\nQuestion 1<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]\n"
    )


def test_the_sound_rows_are_written_to_a_new_file(tmp_path: Path) -> None:
    clean = tmp_path / "clean.jsonl"
    done = check(tmp_path, [*CLEAN, CLEAN[0], row("Q", "")], "--fix", str(clean))
    assert done.returncode == 2
    assert "these rows would spoil a training: nothing to learn" in done.stderr
    assert [json.loads(line) for line in clean.read_text().splitlines()] == CLEAN
    again = check(tmp_path, list(CLEAN), "--fix", str(clean))
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_a_file_that_is_no_file_of_rows_is_one_clear_line(tmp_path: Path) -> None:
    broken = check(tmp_path, [CLEAN[0], "{not json"])
    assert broken.returncode == 2
    assert "rows.jsonl, line 2" in broken.stderr
    assert broken.stderr.count("\n") == 1
