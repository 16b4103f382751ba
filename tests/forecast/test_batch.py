"""The forecast of a batch on the embedded model: it loses nothing, and writes replies alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.echo_backend import EchoBackend
from batch.lines import write_lines
from martlet.backends.load import load_opened
from martlet.backends.native import NativeBackend
from martlet.backends.opened import OpenedModel, open_model
from martlet.backends.options import BackendOptions
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.task import GENERATE
from martlet.errors import InputError
from martlet.forecast.batch import forecast_batch

ROWS = [{"prompt": f"Anna sits left of Bo. Who sits right of {n}?"} for n in range(240)]
PARAMS = {"n": 4, "temperature": 1.0, "max_tokens": 40}


@pytest.fixture(scope="module")
def opened() -> OpenedModel:
    # In bf16 a sample may change with its neighbours' number.
    options = BackendOptions(backend="native", dtype="fp32", max_num_requests=32)
    return open_model("demo", options)


@pytest.fixture(scope="module")
def backend(opened: OpenedModel) -> Iterator[NativeBackend]:
    backend = load_opened(opened)
    assert isinstance(backend, NativeBackend)
    yield backend
    backend.close()


def job(folder: Path, name: str, rows: list[dict[str, str]] = ROWS) -> Job:
    data = write_lines(folder / f"{name}.data.jsonl", rows)
    options = JobOptions(data=str(data), out=folder / f"{name}.jsonl", given_params=PARAMS)
    return Job.read(GENERATE, options)


def test_the_run_goes_on_from_the_probe(
    opened: OpenedModel, backend: NativeBackend, tmp_path: Path
) -> None:
    planned, straight = job(tmp_path, "planned"), job(tmp_path, "straight")
    drawing = forecast_batch(planned, backend, opened=opened, seconds=0.5).drawing
    assert drawing is not None
    assert drawing.memory is not None
    assert not planned.options.out.exists()
    num_drawn, num_left = drawing.drawn.samples, drawing.left.samples
    assert 0 < num_drawn < 4 * len(ROWS), "the probe ended too soon or too late to tell"
    assert num_drawn == drawing.num_ended
    assert num_drawn + num_left == 4 * len(ROWS)
    assert drawing.seconds_left is not None
    assert drawing.seconds_left > 0
    assert drawing.memory.peak > drawing.memory.weights > 0

    summary = planned.run(backend)
    assert summary.samples_reused == num_drawn
    assert summary.samples_drawn == num_left
    assert summary.generated_tokens == pytest.approx(drawing.left.tokens_out, rel=0.25)
    straight.run(backend)
    assert planned.options.out.read_bytes() == straight.options.out.read_bytes()

    nothing = forecast_batch(planned, backend, opened=opened).drawing
    assert nothing is not None
    assert (nothing.left.samples, nothing.seconds_left) == (0, 0.0)


def test_rows_over_the_limit_are_counted_and_nothing_is_drawn(
    opened: OpenedModel, backend: NativeBackend, tmp_path: Path
) -> None:
    long = {"prompt": "left of " * 2000}
    forecast = forecast_batch(
        job(tmp_path, "long", [*ROWS[:3], long, long]), backend, opened=opened
    )
    assert (forecast.rows.questions, forecast.rows.too_long) == (5, 2)
    assert isinstance(forecast.refusal, InputError)
    assert forecast.drawing is None
    assert not (tmp_path / "long.jsonl.journal").exists()


def test_another_backend_is_planned_by_the_samples_that_ended(tmp_path: Path) -> None:
    backend = EchoBackend(step_s=0.01)
    forecast = forecast_batch(job(tmp_path, "echo"), backend, opened=None, seconds=0.5)
    assert forecast.drawing is not None
    assert forecast.drawing.memory is None
    per_sample = forecast.drawing.seconds_probed / forecast.drawing.num_ended
    expected = per_sample * forecast.drawing.left.samples
    assert forecast.drawing.seconds_left == pytest.approx(expected, rel=0.35)
