"""Groups of options: written once as a dataclass, spread over the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from martlet.cli.options.option import option
from martlet.cli.options.rows import RowOptions
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.options.sampling import SamplingOptions
from martlet.cli.verb import verb
from martlet.errors import Interrupted, ParameterError


@dataclass(frozen=True, kw_only=True)
class Size:
    height: Annotated[int, option("Size", "How high.", "--height", "-h")]
    scale: Annotated[float, option("Size", "How much.", "--scale")] = 1.0


seen: list[object] = []


@verb
def build(*, name: str, size: Size, loud: bool = False) -> None:
    """Builds."""
    seen[:] = [name, size, loud]


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(build)
    return made


def test_a_group_reaches_the_verb_as_its_dataclass(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["x", "-h", "3", "--loud"])
    assert done.exit_code == 0, done.output
    assert seen == ["x", Size(height=3, scale=1.0), True]


def test_each_option_has_a_variable(app: typer.Typer) -> None:
    variables = {"MARTLET_HEIGHT": "4", "MARTLET_SCALE": "0.5"}
    done = CliRunner().invoke(app, ["x"], env=variables)
    assert done.exit_code == 0, done.output
    assert seen[1] == Size(height=4, scale=0.5)


def test_a_field_without_default_is_required(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["x"])
    assert done.exit_code == 2
    assert "--height" in done.output


def test_an_interrupt_in_a_verb_is_an_error_of_ours() -> None:
    @verb
    def wait() -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        wait()


def test_only_given_sampling_parameters_are_passed_on() -> None:
    assert SamplingOptions().given_params() == {}
    given = SamplingOptions(n=3, temperature=0.0, stop=["\n"], stop_token_ids=[])
    assert given.given_params() == {"n": 3, "temperature": 0.0, "stop": ["\n"]}


@pytest.mark.parametrize("bad", [{"top_p": 0.0}, {"n": 0}, {"min_tokens": 5, "max_tokens": 4}])
def test_bad_sampling_parameters_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        SamplingOptions(**bad).given_params()


def test_the_rows_options_of_a_batch() -> None:
    options = RowOptions(out=Path("a.jsonl"), skip_bad_rows=True, raw=True)
    job = options.job_options("q.jsonl", {"n": 2})
    assert (job.data, job.out, job.given_params) == ("q.jsonl", Path("a.jsonl"), {"n": 2})
    assert (job.on_bad_row, job.is_raw, job.too_long) == ("skip", True, "error")


def test_the_runtime_options_of_a_backend() -> None:
    backend = RuntimeOptions(
        dtype="fp32", max_requests=7, max_context=100, kv_memory=0.5, no_prefix_sharing=True
    ).backend_options()
    assert (backend.dtype, backend.max_num_requests, backend.max_context_tokens) == ("fp32", 7, 100)
    assert (backend.kv_memory_gib, backend.prefix_sharing) == (0.5, False)
