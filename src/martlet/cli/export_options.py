"""What `merge` and `quantize` share on the command line."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from martlet.cli.options.option import option

if TYPE_CHECKING:
    from martlet.export.certificate import Certificate

PANEL = "Result"
OutFolderOption = Annotated[
    Path, option(PANEL, "The new folder; it must not exist yet.", "--out", "-o", metavar="DIR")
]
ProofDataOption = Annotated[
    str | None,
    option(
        "Certificate",
        "Rows to compare both models on; unless given, built-in sentences.",
        "--data",
        metavar="FILE",
    ),
]


def read_data(path: str) -> Sequence[Mapping[str, object]]:
    """The rows of a data file."""
    from martlet.batch.rows import read_rows

    return [row.data for row in read_rows(path).rows]


def named_data(path: str | None) -> tuple[str, Sequence[Mapping[str, object]]] | None:
    """A data file's name and rows, if one was given."""
    return None if path is None else (path, read_data(path))


@contextmanager
def bars_shown() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each stage, with rate and time left.

    Yields:
        What is to be called with the stage, and its pieces that are done and all of them.
    """
    from tqdm import tqdm

    with tqdm(file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        stage = ""

        def report(what: str, num_done: int, num_all: int) -> None:
            nonlocal stage
            if what != stage:
                stage = what
                bar.set_description(what)
                bar.reset()
            bar.total = num_all
            bar.update(num_done - bar.n)

        yield report


def tell_certificate(certificate: "Certificate", out: Path, *, as_json: bool) -> None:
    """Writes what was measured: words to stderr, JSON to stdout where it is asked for."""
    print("\n".join([*certificate.lines, f"model              {out}"]), file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(certificate), ensure_ascii=False))
