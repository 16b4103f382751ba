"""Running a bench from the command line: folders, progress, the report as it grows."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from tqdm import tqdm

from martlet.bench.plan import BenchOptions, find_all_contestants, plan_bench
from martlet.bench.random_model import NAME, make_model
from martlet.bench.report import BenchReport
from martlet.bench.run import Bench, Measurement
from martlet.errors import InputError, ResourceError
from martlet.models.resolve import resolve


def run_bench(
    model: str | None, options: BenchOptions, *, out: Path | None, overwrite: bool
) -> BenchReport:
    """Measures, and writes the report anew after each measurement.

    Args:
        model: None makes one of random weights, for as long as the bench lasts.
        options: What is to be measured.
        out: The folder of the report; None takes one named after the model.
        overwrite: Whether an earlier report there may be replaced.

    Raises:
        InputError: If there is an earlier report.
        MartletError: As `plan_bench` and `Bench.measure` do.
    """
    find_all_contestants(options)
    folder = _report_folder(out or Path(f"{_short_name(model)}.bench"), overwrite)
    with tempfile.TemporaryDirectory(prefix="martlet-bench-") as name:
        scratch = Path(name)
        if model is None:
            typer.echo(f"making {NAME}, 1 GB", err=True)
        path = make_model(scratch / NAME) if model is None else resolve(model)
        bench = plan_bench(model or NAME, path, options)
        report = _measured(bench, model or NAME, folder, scratch)
    typer.echo(f"report   {folder / 'bench.html'}", err=True)
    return report


def _measured(bench: Bench, model: str, folder: Path, scratch: Path) -> BenchReport:
    folder.mkdir(parents=True, exist_ok=True)
    measurements: list[Measurement] = []
    with _bar(bench.num_measurements) as (tell, advance):
        for measurement in bench.measure(scratch, tell):
            measurements.append(measurement)
            advance(measurement)
            report = BenchReport(model=model, dtype=bench.dtype, measurements=measurements)
            report.write(folder)
    return report


@contextmanager
def _bar(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[Measurement], None]]]:
    """A bar on stderr, and a line for each measurement."""
    with tqdm(total=total, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def advance(measurement: Measurement) -> None:
            bar.write(_line(measurement), file=sys.stderr)
            bar.update()

        yield bar.set_description, advance


def _line(measurement: Measurement) -> str:
    figure = measurement.figure
    return (
        f"round {measurement.round}  {measurement.contestant:18} {measurement.work.name:14} "
        f"{figure.tokens_per_second:9.1f} tokens/s in {figure.seconds:.1f} s"
    )


def _report_folder(folder: Path, overwrite: bool) -> Path:
    if (folder / "bench.json").exists() and not overwrite:
        raise InputError(
            f"{folder} holds an earlier bench; name another folder with --out, or give --overwrite"
        )
    if folder.exists() and not folder.is_dir():
        raise ResourceError(f"--out {folder} is a file; name a folder")
    return folder


def _short_name(model: str | None) -> str:
    """The last part of a folder or an id."""
    return NAME if model is None else Path(model.removeprefix("ms:")).name or "model"
