"""Nothing lost: a run is killed at thirty random moments and must end as if nothing had been."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batch.echo_backend import EchoBackend
from batch.lines import write_lines
from martlet.batch.job import Job
from martlet.batch.journal import Journal
from martlet.batch.options import JobOptions
from martlet.batch.task import GENERATE

NUM_KILLS = 30
LONGEST_RUN_S = 0.15
ROWS = [{"id": i, "prompt": f"question {i}"} for i in range(150)]
SCRIPT = Path(__file__).with_name("killed_run.py")


class KilledBatch:
    """A batch that runs in other processes; `submitted` tells what each of them began to draw."""

    def __init__(self, folder: Path) -> None:
        self.data = write_lines(folder / "data.jsonl", ROWS)
        self.out = folder / "answers.jsonl"
        self.log = folder / "submitted.txt"
        options = JobOptions(data=str(self.data), out=self.out, given_params={"n": 3})
        self.questions = Job.read(GENERATE, options).plan(EchoBackend()).asked

    def start(self) -> subprocess.Popen[str]:
        """Starts a run and returns when its rows are read."""
        self.log.write_text("")
        arguments = [sys.executable, str(SCRIPT), str(self.data), str(self.out), str(self.log)]
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def submitted(self) -> set[tuple[int, int]]:
        places = (line.split(".") for line in self.log.read_text().splitlines())
        return {(int(position), int(k)) for position, k in places}

    def journalled(self, scratch: Path) -> set[tuple[int, int]]:
        """What the journal holds, read from a copy so that the next run finds it untouched."""
        scratch.mkdir()
        for path in self.out.parent.glob("answers.jsonl.journal*"):
            shutil.copy(path, scratch)
        with Journal.open(scratch / "answers.jsonl.journal") as journal:
            return {(q.position, k) for q in self.questions for k in journal.finished(q.key)}


@pytest.fixture
def batch(tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    return KilledBatch(folder)


def uninterrupted(folder: Path) -> bytes:
    options = JobOptions(
        data=str(write_lines(folder / "data.jsonl", ROWS)),
        out=folder / "whole.jsonl",
        given_params={"n": 3},
    )
    Job.read(GENERATE, options).run(EchoBackend(max_num_requests=16))
    return options.out.read_bytes()


def end(process: subprocess.Popen[str], number: signal.Signals) -> str:
    process.send_signal(number)
    _, talk = process.communicate(timeout=30)
    return talk


def test_thirty_kills_lose_nothing_and_draw_nothing_twice(batch, tmp_path) -> None:
    moments = random.Random(0)
    known: set[tuple[int, int]] = set()
    num_killed = 0
    for attempt in range(NUM_KILLS):
        process = batch.start()
        time.sleep(moments.uniform(0, LONGEST_RUN_S))
        end(process, signal.SIGKILL)
        num_killed += process.returncode == -signal.SIGKILL
        assert not batch.submitted() & known, "a finished sample was drawn again"
        journalled = batch.journalled(tmp_path / str(attempt))
        assert known <= journalled, "a finished sample was lost"
        known = journalled
    last = batch.start()
    last.communicate(timeout=60)
    assert last.returncode == 0
    assert not batch.submitted() & known
    assert batch.out.read_bytes() == uninterrupted(tmp_path)
    assert num_killed >= NUM_KILLS // 2
    assert known


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(batch) -> None:
    process = batch.start()
    time.sleep(0.1)
    talk = end(process, signal.SIGINT)
    assert process.returncode == 130
    assert talk.startswith("stopped; what is finished is kept in")
    assert talk.endswith("run the same command again to go on\n")
    assert not batch.out.exists()
