"""The report of a bench: a table to read, a page with charts, a file for programs."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from statistics import median

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from martlet.batch.disk import disk_errors_named
from martlet.bench.figure import Figure, Spread
from martlet.bench.machine import machine
from martlet.bench.peers.protocol import Work
from martlet.bench.run import Measurement


@dataclass(frozen=True, kw_only=True)
class Line:
    """One work by one contestant, over all rounds so far."""

    contestant: str
    work: Work
    figures: Sequence[Figure]
    times_slower: float | None
    """The first contestant's tokens a second over this one's; None for the first itself."""

    @cached_property
    def speed(self) -> Spread:
        """Tokens a second."""
        return Spread.of(self.figures, lambda figure: figure.tokens_per_second)

    @cached_property
    def limit(self) -> float | None:
        """Tokens a second that the machine's limits allowed, median; None where not known."""
        limits = [
            figure.tokens_per_second / figure.share_of_limit
            for figure in self.figures
            if figure.share_of_limit
        ]
        return median(limits) if limits else None

    @cached_property
    def share_of_limit(self) -> float | None:
        """Median; None where it is not known."""
        return self.median("share_of_limit")

    def median(self, name: str) -> float | None:
        """The median of an attribute of `Figure`; None if it is None in one."""
        values = [getattr(figure, name) for figure in self.figures]
        return None if None in values else float(median(values))


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All that a bench measured."""

    model: str
    """As the user named it, or what was made in its place."""
    dtype: torch.dtype
    measurements: Sequence[Measurement]

    @property
    def first(self) -> str:
        """Whom the others are compared with."""
        return self.measurements[0].contestant

    @property
    def is_contest(self) -> bool:
        """Whether there are others."""
        return any(each.contestant != self.first for each in self.measurements)

    @property
    def head(self) -> str:
        """When, where and with what, in one sentence."""
        versions = {each.contestant.split()[0]: each.version for each in self.measurements}
        engines = ", ".join(f"{name} {version}" for name, version in versions.items())
        num_rounds = max(each.round for each in self.measurements)
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.model}, {dtype}, {machine()}, {datetime.now(UTC):%Y-%m-%d}; {engines}; torch "
            f"{torch.__version__}, Python {platform.python_version()}; "
            f"{num_rounds} {'round' if num_rounds == 1 else 'rounds'}"
        )

    @property
    def limits(self) -> dict[str, Spread]:
        """What the machine gave, by the limit's name and unit."""
        figures = [each.figure for each in self.measurements]
        products = {
            f"{dtype} products, GFLOP/s": Spread.of(
                [figure for figure in figures if figure.limits.product_dtype == dtype],
                lambda figure: figure.limits.product_gflop_per_s,
            )
            for dtype in dict.fromkeys(figure.limits.product_dtype for figure in figures)
        }
        return {
            "memory reads, GB/s": Spread.of(figures, lambda f: f.limits.read_gb_per_s),
            **products,
        }

    @property
    def ready(self) -> dict[str, Spread]:
        """Seconds from a contestant's first line to its loaded model."""
        names = dict.fromkeys(each.contestant for each in self.measurements)
        return {
            name: Spread.of(
                [each.figure for each in self.measurements if each.contestant == name],
                lambda figure: figure.ready_s,
            )
            for name in names
        }

    @cached_property
    def groups(self) -> dict[str, list[Line]]:
        """Lines by the first word of their works' names: a series is one group."""
        return {
            name: list(lines)
            for name, lines in groupby(self._lines(), lambda line: line.work.name.split("-")[0])
        }

    def _lines(self) -> Iterator[Line]:
        contestants = dict.fromkeys(each.contestant for each in self.measurements)
        works = {each.work.name: each.work for each in self.measurements}
        for work in works.values():
            speed = None
            for contestant in contestants:
                figures = self._figures(contestant, work)
                if not figures:
                    continue
                own = Spread.of(figures, lambda figure: figure.tokens_per_second).median
                speed = own if contestant == self.first else speed
                yield Line(
                    contestant=contestant,
                    work=work,
                    figures=figures,
                    times_slower=None if contestant == self.first or speed is None else speed / own,
                )

    def _figures(self, contestant: str, work: Work) -> list[Figure]:
        return [
            each.figure
            for each in self.measurements
            if each.contestant == contestant and each.work.name == work.name
        ]

    def as_json(self) -> dict[str, object]:
        """Every measurement, as JSON holds it."""
        return {
            "head": self.head,
            "measurements": [
                {
                    "round": each.round,
                    "contestant": each.contestant,
                    "version": each.version,
                    "work": each.work.name,
                    "title": each.work.title,
                    "tokens_per_second": each.figure.tokens_per_second,
                    "share_of_limit": each.figure.share_of_limit,
                    **asdict(each.figure),
                }
                for each in self.measurements
            ],
        }

    def as_markdown(self) -> str:
        """The tables."""
        return _environment().get_template("bench.md.jinja").render(report=self)

    def write(self, folder: Path) -> None:
        """Writes `bench.md`, `bench.html` and `bench.json`.

        Raises:
            ResourceError: If the disk is full or fails.
        """
        contents = {
            "bench.md": self.as_markdown(),
            "bench.html": _page_environment().get_template("bench.html.jinja").render(report=self),
            "bench.json": json.dumps(self.as_json(), ensure_ascii=False, indent=1) + "\n",
        }
        for name, content in contents.items():
            with disk_errors_named(folder / name):
                (folder / name).write_text(content, encoding="utf-8")


@cache
def _environment() -> Environment:
    return _made_environment(is_page=False)


@cache
def _page_environment() -> Environment:
    return _made_environment(is_page=True)


def _made_environment(*, is_page: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("martlet.bench"),
        autoescape=is_page,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "rate": _rate,
        "ms": _milliseconds,
        "gb": lambda num_bytes: f"{num_bytes / 1e9:.2f}" if num_bytes else "–",
        "longest_bar": lambda line: max(line.speed.most, line.limit or 0.0),
        "percent": lambda share: "–" if share is None else f"{share:.0%}",
    }
    return environment


def _rate(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 10 else 2}f}"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
