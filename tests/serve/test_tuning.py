"""Tuning over HTTP by the stock client: from a file to a model that answers, beside requests."""

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import mean

import openai
import pytest
import yaml
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from martlet.batch.prompts import multiple_choice_prompt
from martlet.demo.kinds.turns import make_turns
from martlet.serve.settings import ServeSettings
from serve.servers import Running, load_demo, serving, wait_until
from serve.test_command import started
from serve.test_conformance import check
from support.shared import needs_shared

ENDED = ("succeeded", "failed", "cancelled")
Row = dict[str, object]


def turning_rows(*, seed: int) -> Iterator[Row]:
    """The easiest puzzles of the family that the embedded model was never trained on."""
    random = Random(seed)
    while True:
        puzzle = make_turns(random, "en", size=1)
        for each in puzzle.questions:
            prompt = multiple_choice_prompt(puzzle.problem, each.question, each.options)
            turns = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": each.reply},
            ]
            yield {"messages": turns}


def upload(client: openai.OpenAI, rows: list[Row], *, name: str = "rows.jsonl") -> str:
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    return client.files.create(file=(name, content), purpose="fine-tune").id


def tune(client: openai.OpenAI, training_file: str, **given: object) -> FineTuningJob:
    hyperparameters = {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 30}
    return client.fine_tuning.jobs.create(
        model="demo",
        training_file=training_file,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        **given,
    )


def ended(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    for _ in range(600):
        job = client.fine_tuning.jobs.retrieve(job.id)
        if job.status in ENDED:
            return job
        time.sleep(0.2)
    raise AssertionError(f"the job is {job.status} still")


def share_right(client: openai.OpenAI, model: str, rows: list[Row]) -> float:
    def is_right(row: Row) -> bool:
        question, answer = row["messages"]
        reply = client.chat.completions.create(
            model=model, messages=[question], temperature=0, max_tokens=80
        )
        return reply.choices[0].message.content.split()[-1:] == answer["content"].split()[-1:]

    with ThreadPoolExecutor(16) as pool:
        return mean(pool.map(is_right, rows))


class Asker(threading.Thread):
    """A client that asks the base again and again while others do what they do."""

    def __init__(self, server: Running) -> None:
        super().__init__()
        self._client = server.client()
        self._is_over = threading.Event()
        self.num_answered = 0
        self.failures: list[Exception] = []

    def run(self) -> None:
        while not self._is_over.wait(0.2):
            try:
                self._client.chat.completions.create(
                    model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=16
                )
                self.num_answered += 1
            except openai.OpenAIError as error:
                self.failures.append(error)

    def end(self) -> None:
        self._is_over.set()
        self.join()


def fail_the_proof(run: Path) -> None:
    provenance = json.loads((run / "martlet.json").read_text())
    provenance["proof"] |= {"passed": False, "reason": "planted"}
    (run / "martlet.json").write_text(json.dumps(provenance))


def cut_the_weights(run: Path) -> None:
    weights = run / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of a job that succeeded, in a server that has stopped since."""

    root: Path
    job: FineTuningJob
    unseen: list[Row]
    """Puzzles that it was not trained on."""
    share_before: float
    share_after: float
    """Of them that were answered rightly, by the base and by the finished model."""
    events: list[FineTuningJobEvent]
    """The oldest first."""
    asker: Asker
    documents: dict[str, object]
    """Replies as they came, by the names of OpenAI's schemas."""


def serve_at(root: Path) -> AbstractContextManager[Running]:
    """A server over the folders of the one before."""
    settings = ServeSettings(tuning_dir=root / "jobs")
    return serving(load_demo(), settings=settings, data_dir=root / "data")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    root = tmp_path_factory.mktemp("tuning")
    rows = list(islice(turning_rows(seed=3), 400))
    unseen = [row for row in islice(turning_rows(seed=4), 120) if row not in rows][:32]
    with serve_at(root) as server, server.http() as http:
        client, asker = server.client(), Asker(server)
        asker.start()
        job = tune(
            client,
            upload(client, rows),
            validation_file=upload(client, unseen),
            suffix="turner",
            metadata={"who": "test"},
            extra_body={"martlet": {"rank": 32}},
        )
        assert (job.status, job.fine_tuned_model) == ("queued", None)
        job = ended(client, job)
        asker.end()
        assert job.status == "succeeded", job.error
        path = f"/v1/fine_tuning/jobs/{job.id}"
        return Seen(
            root=root,
            job=job,
            unseen=unseen,
            share_before=share_right(client, "demo", unseen),
            share_after=share_right(client, job.fine_tuned_model, unseen),
            events=list(client.fine_tuning.jobs.list_events(job.id, limit=40))[::-1],
            asker=asker,
            documents={
                "FineTuningJob": http.get(path).json(),
                "ListPaginatedFineTuningJobsResponse": http.get("/v1/fine_tuning/jobs").json(),
                "ListFineTuningJobEventsResponse": http.get(f"{path}/events").json(),
                "ListFineTuningJobCheckpointsResponse": http.get(f"{path}/checkpoints").json(),
            },
        )


@pytest.mark.slow
def test_a_model_is_tuned_and_asked_while_the_server_runs(seen: Seen) -> None:
    base, organization, suffix, short_id = seen.job.fine_tuned_model.removeprefix("ft:").split(":")
    assert (base, organization, suffix) == ("demo", "martlet", "turner")
    assert seen.job.id.endswith(short_id)
    assert seen.share_before < 0.5
    assert seen.share_after > seen.share_before + 0.2


def test_others_are_answered_all_the_while(seen: Seen) -> None:
    assert seen.asker.failures == []
    assert seen.asker.num_answered > 10


def test_a_job_tells_what_happens(seen: Seen) -> None:
    messages = [event.message for event in seen.events if event.type == "message"]
    assert "cores, at a low priority; requests go first" in messages[2]
    assert messages[-2].startswith("what was trained is what is served: loss 0.")
    assert messages[-1] == f"{seen.job.fine_tuned_model} answers from now on"
    measured = [event.data for event in seen.events if event.type == "metrics"]
    losses = [each["train_loss"] for each in measured if "train_loss" in each]
    assert len(losses) == 50
    assert losses[-1] < losses[0] / 2
    (valid_loss,) = [each["valid_loss"] for each in measured if "valid_loss" in each]
    checkpoint = seen.documents["ListFineTuningJobCheckpointsResponse"]["data"][0]
    assert checkpoint["fine_tuned_model_checkpoint"] == seen.job.fine_tuned_model
    assert checkpoint["metrics"] == {
        "step": 50,
        "train_loss": losses[-1],
        "valid_loss": valid_loss,
    }
    assert seen.job.trained_tokens > 40_000
    assert seen.job.hyperparameters.learning_rate_multiplier == 30
    recipe = (seen.root / "jobs" / seen.job.id / "recipe.yaml").read_text()
    assert yaml.safe_load(recipe)["learning_rate"] == pytest.approx(30 * 2e-4)


@needs_shared
def test_jobs_are_as_documented(seen: Seen) -> None:
    for name, document in seen.documents.items():
        check(document, name)


def test_a_tuned_model_is_served_again_by_the_next_server(seen: Seen) -> None:
    with serve_at(seen.root) as server:
        client = server.client()
        assert share_right(client, seen.job.fine_tuned_model, seen.unseen) == seen.share_after
        assert client.fine_tuning.jobs.list().data == [seen.job]


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        (fail_the_proof, "parity", "planted"),
        (cut_the_weights, "adapter", "adapter_model.safetensors"),
    ],
)
def test_what_is_not_proven_is_not_served(
    seen: Seen, tmp_path: Path, fault: Callable[[Path], None], code: str, sentence: str
) -> None:
    # As if the server had ended right behind the training, before it looked at what came of it.
    root = Path(shutil.copytree(seen.root, tmp_path / "root"))
    with sqlite3.connect(root / "data" / "martlet.sqlite") as database:
        database.execute("UPDATE job SET body = json_set(body, '$.status', 'running')")
    database.close()
    fault(root / "jobs" / seen.job.id / "run")
    with serve_at(root) as server:
        client = server.client()
        job = ended(client, seen.job)
        assert job.status == "failed"
        assert job.error.code == code
        assert sentence in job.error.message
        assert job.fine_tuned_model is None
        assert [model.id for model in client.models.list()] == ["demo"]


@pytest.mark.slow
def test_a_killed_server_leaves_its_job_to_the_next(tmp_path: Path) -> None:
    folders = ("--data-dir", str(tmp_path / "data"), "--tuning-dir", str(tmp_path / "jobs"))
    rows = list(islice(turning_rows(seed=5), 64))
    with started(*folders) as (process, url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        job = tune(client, upload(client, rows), extra_body={"martlet": {"save_every": 1}})
        run = tmp_path / "jobs" / job.id / "run"
        wait_until(lambda: (run / "checkpoints" / "checkpoint-2").exists(), timeout_s=60)
        process.kill()
        process.wait()
    num_steps = len((run / "metrics.jsonl").read_text().splitlines())
    assert num_steps < 8
    with serve_at(tmp_path) as server:
        client = server.client()
        waiting = upload(client, [{"messages": [{"role": "user", "content": "Hello"}]}])
        behind = tune(client, waiting)
        assert ended(client, job).status == "succeeded"
        (resumed,) = [
            event.message
            for event in client.fine_tuning.jobs.list_events(job.id, limit=100)
            if "started again" in event.message
        ]
        step = int(resumed.rpartition(" ")[2])
        assert 1 <= step <= num_steps
        failed = ended(client, behind)
    assert failed.status == "failed"
    assert failed.error.param == "training_file"
    assert "training.jsonl, line 1" in failed.error.message


def test_jobs_are_cancelled_in_the_queue_and_at_work(tmp_path: Path) -> None:
    with serve_at(tmp_path) as server:
        client = server.client()
        file = upload(client, list(islice(turning_rows(seed=6), 64)))
        first, second = tune(client, file), tune(client, file)
        (taken,) = client.fine_tuning.jobs.list_events(second.id)
        assert taken.message == f"the job was taken; it waits for {first.id}"
        for job in (second, first):
            assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
            assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="has cancelled and cannot be"):
            client.fine_tuning.jobs.cancel(first.id)
        assert [job.id for job in client.fine_tuning.jobs.list()] == [second.id, first.id]
