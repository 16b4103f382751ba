"""`martlet vote` from a file to a file, with the embedded model and its puzzles."""

import json
from pathlib import Path

import pytest

from cli.conftest import Call, Called
from martlet.demo import puzzles_path

KEYS = {
    "rows",
    "failed",
    "unparsed",
    "accuracy",
    "accuracy_interval",
    "samples_drawn",
    "samples_saved",
    "prompt_tokens",
    "generated_tokens",
    "cut_by_length",
    "seconds",
    "tokens_per_second",
}
OPTIONS = ["one", "two", "three", "four"]
NUM_ROWS = 12


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows() -> list[dict[str, object]]:
    """Nested rows of several questions each."""
    return read(puzzles_path())[:NUM_ROWS]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", rows())


def answers(path: Path) -> list[object]:
    nested = [row["questions"] for row in read(path)]
    return [each["answer"] for questions in nested for each in questions]  # type: ignore[attr-defined]


def summary(called: Called) -> dict[str, object]:
    assert called.exit_code == 0, called.stderr
    return dict(json.loads(called.stdout))


def test_the_result_is_nested_as_the_data_with_answers_filled_in(
    call: Call, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert call("vote", data, "-m", "demo", "-o", out).exit_code == 0
    for given, made in zip(rows(), read(out), strict=True):
        assert (made["id"], made["problem"]) == (given["id"], given["problem"])
        assert isinstance(given["questions"], list)
        assert isinstance(made["questions"], list)
        for asked, question in zip(given["questions"], made["questions"], strict=True):
            assert question["answer"] in ("A", "B", "C", "D")
            assert question["options"] == asked["options"]
            assert question["expected"] == asked["answer"]
            assert question["is_right"] == (question["answer"] == question["expected"])
            assert question["num_samples"] <= 8
            assert "replies" not in question


def test_the_summary_is_one_json_object_on_stdout(call: Call, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    called = call("vote", data, "-m", "demo", "-o", out, "--json")
    found = summary(called)
    assert found.keys() >= KEYS
    assert called.stdout.count("\n") == 1
    right = [question["is_right"] for row in read(out) for question in row["questions"]]  # type: ignore[attr-defined]
    assert found["accuracy"] == sum(right) / len(right)
    assert (found["rows"], found["failed"]) == (NUM_ROWS, 0)
    low, high = found["accuracy_interval"]  # type: ignore[misc]
    assert low < found["accuracy"] <= high


def test_stderr_says_what_happened_and_where_things_lie(
    call: Call, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    called = call("vote", data, "-m", "demo", "-o", out, "--max-tokens", 2)
    assert called.stdout == ""
    for piece in (
        f"{NUM_ROWS} rows, ",
        "accuracy: one sample ",
        "-> vote of 8 ",
        "samples; raise --max-tokens",
        f"answers  {out}\n",
        f"report   {out}.report.html\n",
        f"card     {out}.card.json\n",
    ):
        assert piece in called.stderr
    report = Path(f"{out}.report.md").read_text(encoding="utf-8")
    assert "# Vote over data.jsonl" in report
    assert "| max_tokens | 2 | command line |" in report
    assert "<svg" in Path(f"{out}.report.html").read_text(encoding="utf-8")


def test_early_stop_has_the_same_answers_with_fewer_samples(
    call: Call, data: Path, tmp_path: Path
) -> None:
    found = {}
    for when in ("exact", "off"):
        command = ("vote", data, "-m", "demo", "-o", tmp_path / f"{when}.jsonl", "--json")
        found[when] = summary(call(*command, "--early-stop", when))
    assert answers(tmp_path / "exact.jsonl") == answers(tmp_path / "off.jsonl")
    num_questions = len(answers(tmp_path / "off.jsonl"))
    assert found["off"]["samples_drawn"] == num_questions * 8
    assert found["exact"]["samples_drawn"] < num_questions * 8  # type: ignore[operator]
    assert found["exact"]["samples_saved"] > 0  # type: ignore[operator]
    assert found["exact"]["tokens_saved"] > 0  # type: ignore[operator]


def test_a_second_run_draws_nothing_and_finds_the_same(
    call: Call, data: Path, tmp_path: Path
) -> None:
    command = ("vote", data, "-m", "demo", "-o", tmp_path / "out.jsonl", "--json")
    first = summary(call(*command))
    again = summary(call(*command))
    assert again["samples_drawn"] == 0
    for name in ("accuracy", "single_accuracy", "unparsed", "unparsed_samples"):
        assert again[name] == first[name]


def test_weights_and_replies(call: Call, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ("vote", data, "-m", "demo", "-o", out, "--weights", "logprob", "--replies", "-n", 3)
    assert call(*command).exit_code == 0
    row = read(out)[0]
    assert isinstance(row["questions"], list)
    question = row["questions"][0]
    assert len(question["replies"]) == question["num_samples"]
    assert all(0 < count <= 3 for count in question["votes"].values())
    assert not any(isinstance(count, int) for count in question["votes"].values())


def test_rows_without_right_answers_have_no_accuracy(call: Call, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"question": "?", "options": OPTIONS}])
    called = call("vote", data, "-m", "demo", "-o", tmp_path / "out.jsonl", "--json")
    assert summary(called)["accuracy"] is None
    assert "accuracy" not in called.stderr


def test_failed_rows_are_told_and_not_scored(call: Call, tmp_path: Path) -> None:
    given = rows()
    assert isinstance(given[3]["questions"], list)
    given[3]["questions"][1]["question"] *= 200
    data, out = write(tmp_path / "data.jsonl", given), tmp_path / "out.jsonl"
    called = call("vote", data, "-m", "demo", "-o", out, "--too-long", "skip", "--json")
    found = summary(called)
    assert (found["failed"], found["failed_questions"]) == (1, 1)
    assert "failed: 1 row;" in called.stderr
    assert "line 4, question 2: " in called.stderr


@pytest.mark.parametrize(
    ("row", "arguments", "reason"),
    [
        ({"question": "?", "options": OPTIONS, "answer": "E"}, (), "line 1: the answer 'E' is not"),
        ({"question": "2+2?", "answer": "4"}, (), "say how to read its answer: --extract letter"),
        ({"question": "2+2?", "answer": "four"}, ("--extract", "number"), "is not a number"),
        ({"question": "?", "options": OPTIONS}, ("--temperature", 0), "temperature 0"),
        ({"question": "?", "options": OPTIONS}, ("--early-stop", "soon"), "unknown early stop"),
        ({"question": "?", "options": OPTIONS}, ("--extract", "regex:("), "no regular expression"),
        (
            {"question": "?", "options": OPTIONS},
            ("--early-stop", "beta", "--weights", "logprob"),
            "beta counts whole votes",
        ),
    ],
)
def test_what_is_wrong_is_found_before_a_model_is_loaded(
    call: Call,
    tmp_path: Path,
    row: dict[str, object],
    arguments: tuple[object, ...],
    reason: str,
) -> None:
    data = write(tmp_path / "data.jsonl", [row])
    model = tmp_path / "no-such-model"
    called = call("vote", data, "-m", model, "-o", tmp_path / "out.jsonl", *arguments)
    assert called.exit_code == 2
    assert reason in called.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_the_limit_of_a_vote_leaves_room_for_prompts(
    call: Call, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert call("vote", data, "-m", "demo", "-o", out, "--max-context", 400).exit_code == 0
    parameters = json.loads(Path(f"{out}.card.json").read_text(encoding="utf-8"))["parameters"]
    assert parameters["max_tokens"] == {"value": 200, "source": "default of martlet vote"}
