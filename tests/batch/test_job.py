"""A whole batch: rows in, rows out, beside them the card; and every refusal before compute."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from batch.echo_backend import EchoBackend
from batch.lines import read_lines, write_lines
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.task import GENERATE
from martlet.errors import (
    EngineError,
    InputError,
    Interrupted,
    NotFoundError,
    ParameterError,
    ResourceError,
)
from support.shared import SHARED, needs_shared

ROWS = [{"id": i, "prompt": f"question {i}", "error": "an old one"} for i in range(12)]


class Batch:
    """A data file and its result in a folder of their own."""

    def __init__(self, folder) -> None:
        self.data = folder / "data.jsonl"
        self.out = folder / "answers.jsonl"
        self.card = folder / "answers.jsonl.card.json"
        self.partial = folder / "answers.jsonl.partial"

    def job(self, rows=None, n=1, **options):
        if rows is not None:
            write_lines(self.data, rows)
        given = {"n": n, **options.pop("given_params", {})}
        chosen = JobOptions(data=str(self.data), out=self.out, given_params=given, **options)
        return Job.read(GENERATE, chosen)

    def run(self, rows=None, backend=None, *, on_progress=None, stop_requested=None, **options):
        hooks = {"on_progress": on_progress, "stop_requested": stop_requested}
        job = self.job(rows, **options)
        return job.run(backend or EchoBackend(), **{k: v for k, v in hooks.items() if v})

    def read_card(self):
        return json.loads(self.card.read_text("utf-8"))


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def test_each_row_comes_back_in_order_with_its_reply(batch) -> None:
    summary = batch.run(ROWS, EchoBackend(max_num_requests=3), given_params={"max_tokens": 6})
    results = read_lines(batch.out)
    assert [row["id"] for row in results] == list(range(12))
    for row in results:
        assert list(row) == ["id", "prompt", "reply", "finish_reason", "num_tokens"]
        assert row["reply"].count("token") == row["num_tokens"]
    assert (summary.rows, summary.failed, summary.samples_drawn) == (12, 0, 12)
    assert summary.generated_tokens == sum(row["num_tokens"] for row in results)
    assert summary.cut_by_length == sum(row["finish_reason"] == "length" for row in results) > 0
    assert not batch.partial.exists()


def test_several_replies_and_nested_rows(batch) -> None:
    own = [{"question": "q", "options": ["x", "y"], "answer": "A"}, {"question": "z"}]
    batch.run([{"problem": "题", "questions": own, "note": 1}], n=2)
    (row,) = read_lines(batch.out)
    assert list(row) == ["problem", "questions", "note"]
    assert [q["question"] for q in row["questions"]] == ["q", "z"]
    assert list(row["questions"][0])[3:] == ["replies", "finish_reasons", "num_tokens"]
    assert len(row["questions"][1]["replies"]) == 2
    assert "题" in batch.out.read_text("utf-8")


def test_a_row_without_fault_carries_no_error_of_its_data(batch) -> None:
    batch.run([{"questions": [{"question": "q", "error": "old"}], "error": "old"}])
    assert "error" not in batch.out.read_text("utf-8")


@needs_shared
def test_the_real_file_passes_whole(batch) -> None:
    batch.data = SHARED / "data/logic/round1_train.jsonl"
    with pytest.raises(InputError, match="4 questions cannot be asked: line 1, question 1: opt"):
        batch.job()
    backend = EchoBackend(max_num_requests=64)
    summary = batch.run(backend=backend, allow_repeated_options=True)
    assert (summary.rows, summary.questions, summary.failed) == (500, 1421, 0)
    sources = read_lines(batch.data)
    for row, source in zip(read_lines(batch.out), sources, strict=True):
        for question, asked in zip(row["questions"], source["questions"], strict=True):
            assert question["reply"]
            assert {name: question[name] for name in asked} == asked


# --- the same samples, whatever the order and the size of steps ---


def test_shuffled_rows_and_a_halved_batch_give_the_same_samples(tmp_path) -> None:
    lines = []
    for name, rows, size in [("a", ROWS, 8), ("b", ROWS[::-1], 8), ("c", ROWS, 4)]:
        (tmp_path / name).mkdir()
        batch = Batch(tmp_path / name)
        batch.run(rows, EchoBackend(max_num_requests=size), n=3)
        lines.append(batch.out.read_text("utf-8").splitlines())
    whole, shuffled, halved = lines
    assert halved == whole
    assert shuffled == whole[::-1]


def test_rows_without_ids_keep_their_samples_when_shuffled(tmp_path) -> None:
    rows = [{"prompt": "same"}, {"prompt": "other"}, {"prompt": "same"}, {"prompt": "third"}]
    texts = []
    for name, order in [("a", rows), ("b", rows[::-1])]:
        (tmp_path / name).mkdir()
        Batch(tmp_path / name).run(order)
        texts.append(sorted((tmp_path / name / "answers.jsonl").read_text().splitlines()))
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 4


def test_a_changed_prompt_redoes_its_own_row_only(batch) -> None:
    batch.run(ROWS, n=3)
    before = read_lines(batch.out)
    changed = [*ROWS[:5], {"id": 5, "prompt": "another"}, *ROWS[6:]]
    backend = EchoBackend()
    summary = batch.run(changed, backend, n=3, overwrite=True)
    assert [request.request_id for request in backend.submitted] == ["5.0", "5.1", "5.2"]
    assert (summary.samples_drawn, summary.samples_reused) == (3, 33)
    after = read_lines(batch.out)
    assert [i for i in range(12) if after[i] != before[i]] == [5]


def test_a_second_run_draws_nothing_and_writes_the_same_bytes(batch) -> None:
    batch.run(ROWS, n=3)
    before = batch.out.read_bytes()
    backend = EchoBackend()
    summary = batch.run(ROWS, backend, n=3)
    assert not backend.submitted
    assert summary.samples_reused == 36
    assert batch.out.read_bytes() == before


# --- bad rows ---

MIXED = [{"prompt": "x"}, {"text": "y"}, {"question": "q", "options": ["a", "a"]}, {"prompt": "z"}]


def test_bad_rows_refuse_the_run_before_the_model_is_there(batch) -> None:
    with pytest.raises(InputError) as caught:
        batch.job(MIXED)
    message = str(caught.value)
    assert message.startswith(f"{batch.data}: 2 questions cannot be asked: line 2: the row asks no")
    assert "; line 3: options repeat: A and B are both 'a'. Nothing was computed." in message
    assert "--skip-bad-rows" in message
    assert message.count("--allow-repeated-options") == 1
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert not list(batch.out.parent.glob("answers*"))


def test_of_many_bad_rows_the_first_are_shown_and_all_are_counted(batch) -> None:
    with pytest.raises(InputError, match=r"8 questions cannot be asked: .*line 5: .*; and 3 more"):
        batch.job([{"text": "y"}] * 8)


def test_skipped_bad_rows_are_errors_on_their_rows(batch) -> None:
    summary = batch.run(MIXED, on_bad_row="skip")
    rows = read_lines(batch.out)
    assert ["error" in row for row in rows] == [False, True, True, False]
    assert rows[1]["text"] == "y"
    assert rows[1]["error"].startswith("line 2: the row asks nothing")
    assert rows[2]["error"] == "line 3: options repeat: A and B are both 'a'"
    assert (summary.rows, summary.failed, summary.samples_drawn) == (4, 2, 2)
    assert summary.first_errors == (rows[1]["error"], rows[2]["error"])


def test_one_skipped_question_leaves_the_row_its_others(batch) -> None:
    own = [{"question": "q", "options": ["a", "a"]}, "not a question", {"question": "z"}]
    summary = batch.run([{"problem": "p", "questions": own}], on_bad_row="skip")
    repeated, text, good = read_lines(batch.out)[0]["questions"]
    assert repeated["error"] == "line 1, question 1: options repeat: A and B are both 'a'"
    assert text["question"] == "not a question"
    assert "reply" in good
    assert (summary.failed, summary.failed_questions) == (1, 2)


def test_a_row_that_fails_while_running_is_an_error_and_tried_again(batch) -> None:
    summary = batch.run(ROWS, EchoBackend(fail_on="question 7"))
    assert summary.failed == 1
    failed = [row for row in read_lines(batch.out) if "error" in row]
    assert failed == [
        {"id": 7, "prompt": "question 7", "error": "line 8: sample 0 failed: the echo broke"}
    ]
    backend = EchoBackend()
    assert batch.run(ROWS, backend).failed == 0
    assert [request.request_id for request in backend.submitted] == ["7.0"]


LONG = [{"prompt": "x"}, {"prompt": "0123456789"}]


def test_too_long_refuses_the_run_by_default(batch) -> None:
    backend = EchoBackend(max_context_tokens=10)
    with pytest.raises(InputError, match="one question cannot be asked: line 2: the prompt has 16"):
        batch.run(LONG, backend)
    assert not backend.submitted
    assert not batch.card.exists()


def test_too_long_skip_is_an_error_on_the_row(batch) -> None:
    summary = batch.run(LONG, EchoBackend(max_context_tokens=10), too_long="skip")
    good, bad = read_lines(batch.out)
    assert "reply" in good
    assert bad["error"].startswith("line 2: the prompt has 16 tokens")
    assert summary.failed == 1


def test_too_long_truncate_left_says_what_it_dropped(batch) -> None:
    given = {"max_tokens": 4}
    backend = EchoBackend(max_context_tokens=10)
    with pytest.raises(InputError, match="2 questions cannot"):
        batch.run(LONG, backend, given_params=given)
    summary = batch.run(LONG, backend, too_long="truncate-left", given_params=given)
    assert [row["num_dropped_tokens"] for row in read_lines(batch.out)] == [1, 10]
    assert summary.truncated_prompts == 2


# --- refusals before compute ---


def refusal(batch, error, **options):
    backend = EchoBackend(**options.pop("backend", {}))
    with pytest.raises(error) as caught:
        batch.run(ROWS, backend, **options)
    assert not backend.submitted
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_parameter(batch) -> None:
    message = refusal(batch, ParameterError, given_params={"temprature": 1})
    assert message.startswith("unknown parameter 'temprature'")


def test_no_disk_space(batch) -> None:
    message = refusal(batch, ResourceError, given_params={"n": 2**31 - 1})
    free = shutil.disk_usage(batch.out.parent).free / 2**20
    left = re.search(r"may need \d+ MiB and .* has (\d+) MiB left", message)
    assert left is not None
    assert int(left[1]) == pytest.approx(free, rel=0.1)
    assert not batch.card.exists()


def test_another_run_on_the_same_result(batch) -> None:
    job = batch.job(ROWS)

    def run_it_twice(_progress):
        assert "another run has" in refusal(batch, InputError)

    job.run(EchoBackend(), on_progress=run_it_twice)
    assert len(read_lines(batch.out)) == 12


def test_a_result_of_other_questions_stays_unless_told_otherwise(batch) -> None:
    batch.run(ROWS)
    before = batch.out.read_bytes()
    message = refusal(batch, InputError, given_params={"temperature": 0.5})
    assert f"{batch.out} exists and was made by generate with echo over" in message
    assert "--overwrite" in message
    assert batch.out.read_bytes() == before
    assert batch.run(ROWS, given_params={"temperature": 0.5}, overwrite=True).samples_drawn == 12


def test_a_file_that_is_no_result_stays(batch) -> None:
    batch.out.write_text("mine")
    assert "left no run card" in refusal(batch, InputError)
    assert batch.out.read_text() == "mine"


def test_more_samples_of_the_same_questions_need_no_leave(batch) -> None:
    batch.run(ROWS, n=3)
    assert batch.run(ROWS, n=5).samples_drawn == 24


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("answers.csv", InputError, r"a result is JSON lines, one a row; name it answers\.jsonl"),
        ("absent/answers.jsonl", NotFoundError, "there is no folder"),
        ("data.jsonl", InputError, "is the data file itself"),
        ("folder.jsonl", InputError, "is a folder"),
    ],
)
def test_a_result_that_cannot_be_written_there(batch, tmp_path, out, error, message) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    write_lines(batch.data, ROWS)
    batch.out = tmp_path / out
    with pytest.raises(error, match=message):
        batch.job()


# --- while it runs, and how it ends ---


def test_the_partial_result_is_readable_and_in_order(batch) -> None:
    seen = []

    def look(progress):
        lines = read_lines(batch.partial)
        assert [row["id"] for row in lines] == list(range(progress.num_rows_done))
        assert progress.num_rows == progress.num_questions == 12
        seen.append((progress.num_rows_done, progress.num_questions_done))

    batch.run(ROWS, EchoBackend(max_num_requests=3), on_progress=look)
    assert seen == sorted(seen)
    assert seen[-1] == (12, 12)
    assert any(0 < done < 12 for done, _ in seen)


def test_a_stopped_run_keeps_everything_and_goes_on(batch) -> None:
    steps = iter([False] * 4 + [True])
    with pytest.raises(Interrupted, match="run the same command again"):
        batch.run(ROWS, n=3, stop_requested=lambda: next(steps))
    assert not batch.out.exists()
    assert batch.read_card()["status"] == "interrupted"
    summary = batch.run(ROWS, n=3)
    assert summary.samples_reused > 0
    assert summary.samples_drawn + summary.samples_reused == 36
    assert batch.read_card()["status"] == "complete"


def test_a_failed_engine_keeps_what_was_finished(batch) -> None:
    class Breaking(EchoBackend):
        num_polls = 0

        def poll(self):
            self.num_polls += 1
            if self.num_polls == 5:
                raise EngineError("out of memory")
            return super().poll()

    with pytest.raises(EngineError):
        batch.run(ROWS, Breaking(), n=3)
    assert batch.read_card()["status"] == "failed"
    assert batch.run(ROWS, n=3).samples_reused > 0


def test_the_card_says_what_made_the_result(batch) -> None:
    rows = [*ROWS, {"id": "own", "body": {"prompt": "x", "temperature": 0.2}}]
    backend = EchoBackend(default_params={"temperature": 0.7})
    summary = batch.run(rows, backend, given_params={"max_tokens": 5})
    card = batch.read_card()
    assert (card["verb"], card["status"], card["policy"]) == ("generate", "complete", "draw all")
    assert card["model"]["model_hash"] == "echo"
    assert card["data"]["num_rows"] == 13
    assert card["parameters"]["max_tokens"] == {"value": 5, "source": "command line"}
    assert card["parameters"]["temperature"]["source"] == "generation_config.json"
    assert card["parameters"]["seed"] == {"value": 0, "source": "default of martlet generate"}
    assert card["num_questions_with_own_parameters"] == 1
    assert set(card["versions"]) == {"martlet", "python", "torch", "transformers"}
    assert card["counts"]["samples_drawn"] == summary.samples_drawn == 13
    assert len(card["result_sha256"]) == len(card["data"]["sha256"]) == 64


def test_the_template_is_on_the_card(batch, tmp_path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text("{{ id }}: {{ prompt }}")
    job = batch.job(ROWS, prompt_template=path)
    assert job.plan(EchoBackend()).asked[3].prompt_ids == tuple(map(ord, "<user>3: question 3"))
    job.run(EchoBackend())
    assert batch.read_card()["prompt_template"]["path"] == str(path)


def test_a_batch_imports_no_torch() -> None:
    script = "import sys, martlet.batch.job; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
