"""A run over a server ends as it would here, whatever the server does in between."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.unruly_server import FAULTS, UnrulyFront, in_turn, listening
from batch.lines import read_lines, write_lines
from martlet.backends.base import Backend
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.summary import Progress
from martlet.batch.task import GENERATE
from martlet.models.resolve import resolve
from serve.servers import load_demo, serving

pytestmark = pytest.mark.slow
NUM_ROWS = 1000
ROWS = [{"id": i, "prompt": f"Ann has {i} apples. Who has them?"} for i in range(NUM_ROWS)]
PARAMS = {"temperature": 0.9, "top_p": 0.95, "top_k": 40, "max_tokens": 4, "ignore_eos": True}


def run(
    folder: Path,
    backend: Backend,
    name: str,
    *,
    num_rows: int = NUM_ROWS,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> bytes:
    """The result's bytes."""
    data = write_lines(folder / f"{name}.data.jsonl", ROWS[:num_rows])
    out = folder / f"{name}.jsonl"
    options = JobOptions(data=str(data), out=out, given_params=PARAMS)
    Job.read(GENERATE, options).run(backend, on_progress=on_progress)
    return out.read_bytes()


def test_a_thousand_rows_over_an_unruly_server_are_those_of_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """429, 500, half replies and nonsense in turn: complete, in order, and the same bytes."""
    caplog.set_level(logging.CRITICAL, logger="uvicorn.error")
    native = load_demo()
    here = run(tmp_path, native, "here")
    with serving(native) as running:
        front = UnrulyFront(running.url, faults=in_turn(12))
        with listening(front) as url:
            options = BackendOptions(tokenizer=str(resolve("demo")))
            remote = load_backend(f"{url}/v1#demo", options=options)
            there = run(tmp_path, remote, "there")
            remote.close()
    native.close()
    assert [row["id"] for row in read_lines(tmp_path / "there.jsonl")] == list(range(NUM_ROWS))
    assert there == here
    assert min(front.told[fault] for fault in FAULTS) >= 10, front.told


def test_a_server_that_restarts_in_the_middle_loses_no_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="uvicorn.error")
    native = load_demo()
    here = run(tmp_path, native, "here", num_rows=120)
    with serving(native) as running, ExitStack() as first, ExitStack() as second:
        url = first.enter_context(listening(UnrulyFront(running.url)))
        front = UnrulyFront(running.url)
        again = listening(front, port=int(url.split(":")[2]))
        restart = threading.Timer(1, second.enter_context, [again])

        def stop(progress: Progress) -> None:
            if progress.num_rows_done >= 30 and restart.ident is None:
                first.close()
                restart.start()

        remote = load_backend(f"{url}/v1#demo")
        there = run(tmp_path, remote, "there", num_rows=120, on_progress=stop)
        remote.close()
    native.close()
    assert there == here
    assert len(front.asked) >= 40
