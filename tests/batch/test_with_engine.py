"""A batch on the real engine: killed thirty times, shuffled, halved; the samples stay the same."""

import json
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.lines import write_lines
from martlet.backends.base import SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions
from martlet.batch.job import Job
from martlet.batch.journal import Journal
from martlet.batch.options import JobOptions
from martlet.batch.task import GENERATE
from martlet.models.folder import ModelFolder

NUM_KILLS = 30
LONGEST_RUN_S = 0.35
PARAMS = {"n": 3, "temperature": 0.9, "top_p": 0.95, "max_tokens": 24, "ignore_eos": True}
STORY = "Anna sits left of Bo and Bo sits left of Cleo. " * 2
ROWS = [{"id": i, "prompt": f"{STORY}Who sits left of number {i}?"} for i in range(48)]


class LoggedBackend(NativeBackend):
    """The native backend, noting in a file which samples it began to draw."""

    log: Path

    def submit(self, request: SampleRequest) -> None:
        super().submit(request)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{request.request_id}\n")


def load(folder: ModelFolder, **options: int) -> NativeBackend:
    backend = load_backend(
        str(folder.path), options=BackendOptions(dtype="fp32", kv_memory_gib=0.05, **options)
    )
    assert isinstance(backend, NativeBackend)
    return backend


@pytest.fixture(scope="module")
def backend(tiny_llama: ModelFolder) -> Iterator[LoggedBackend]:
    backend = load(tiny_llama, max_num_requests=16)
    backend.__class__ = LoggedBackend
    assert isinstance(backend, LoggedBackend)
    yield backend
    backend.close()


def job(folder: Path, rows: list[dict[str, object]], out: str) -> Job:
    data = write_lines(folder / f"{out}.data.jsonl", rows)
    options = JobOptions(data=str(data), out=folder / f"{out}.jsonl", given_params=PARAMS)
    return Job.read(GENERATE, options)


def fork_run(job: Job, backend: LoggedBackend) -> int:
    """Starts a run in a child that has the loaded model already; returns the child's pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no other thread holds a lock here
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            job.run(backend)
            status = 0
        finally:
            os._exit(status)
    return pid


def end(pid: int) -> bool:
    """Kills a child with no chance to tidy up; whether it was still running."""
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def journalled(job: Job, backend: NativeBackend, scratch: Path) -> set[str]:
    """What the journal holds, read from a copy so that the next run finds it untouched."""
    scratch.mkdir()
    for path in job.options.out.parent.glob(f"{job.options.out.name}.journal*"):
        shutil.copy(path, scratch)
    with Journal.open(scratch / f"{job.options.out.name}.journal") as journal:
        asked = job.plan(backend).asked
        return {f"{q.position}.{k}" for q in asked for k in journal.finished(q.key)}


def test_thirty_kills_lose_nothing_and_draw_nothing_twice(
    backend: LoggedBackend, tmp_path: Path
) -> None:
    moments = random.Random(1)
    killed = job(tmp_path, ROWS, "killed")
    backend.log = tmp_path / "submitted.txt"
    known: set[str] = set()
    everything = {f"{q.position}.{k}" for q in killed.plan(backend).asked for k in range(3)}
    num_killed = 0
    attempt = 0
    while num_killed < NUM_KILLS:
        if known == everything:
            # A run has ended before its kill: the next ones begin anew.
            for path in tmp_path.glob("killed.jsonl*"):
                path.unlink()
            known = set()
        attempt += 1
        backend.log.write_text("")
        pid = fork_run(killed, backend)
        time.sleep(moments.uniform(0, LONGEST_RUN_S))
        num_killed += end(pid)
        assert not known & set(backend.log.read_text().split()), "a sample was drawn twice"
        finished = journalled(killed, backend, tmp_path / str(attempt))
        assert known <= finished, "a finished sample was lost"
        known = finished
    backend.log.write_text("")
    killed.run(backend)
    assert not known & set(backend.log.read_text().split())
    whole = job(tmp_path, ROWS, "whole")
    whole.run(backend)
    assert killed.options.out.read_bytes() == whole.options.out.read_bytes()
    backend.engine.check_integrity()


def replies(job: Job, backend: NativeBackend) -> dict[int, object]:
    job.run(backend)
    lines = job.options.out.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["id"]: row["replies"] for row in rows}


def test_shuffled_rows_and_half_the_batch_draw_the_same_samples(
    backend: LoggedBackend, tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    backend.log = tmp_path / "submitted.txt"
    expected = replies(job(tmp_path, ROWS, "ordered"), backend)
    shuffled = ROWS.copy()
    random.Random(2).shuffle(shuffled)
    assert replies(job(tmp_path, shuffled, "shuffled"), backend) == expected
    halved = load(tiny_llama, max_num_requests=8)
    assert replies(job(tmp_path, ROWS, "halved"), halved) == expected
    assert len({str(reply) for reply in expected.values()}) > 40
