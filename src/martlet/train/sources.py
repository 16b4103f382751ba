"""Files of rows to examples: which rows of which file, and what their columns are called.

rows.jsonl          all rows
rows.jsonl#500      500 of them, always the same ones
rows.jsonl@0.25     a quarter of them; @3 takes each three times
owner/name          a data set of the Hugging Face hub, its `train` split; owner/name:dev another
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from martlet.batch.prompts import PromptTemplate
from martlet.batch.rows import Row, read_rows
from martlet.batch.shapes import Wording
from martlet.errors import InputError, MissingExtraError, NotFoundError, ParameterError, RowError
from martlet.train.config import DataConfig
from martlet.train.example import Example, Origin
from martlet.train.formats.read import read_row

_SPEC = re.compile(r"(?P<path>.+?)(?:#(?P<count>\d+)|@(?P<weight>\d*\.?\d+))?")
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<split>\w+))?")
_SEED = 0
"""Of samples: the same rows in every run."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data file's examples."""

    name: str
    """As the user wrote it."""
    rows: tuple[Row, ...]
    """As they stand in the file, those that are taken."""
    examples: tuple[Example, ...]
    faults: tuple[RowError, ...]
    """Why the other rows cannot be used."""
    data_hash: str
    """SHA-256 of the file."""


def read_source(spec: str, config: DataConfig) -> Source:
    """Reads a file of rows.

    Args:
        spec: Its name, perhaps with how many of its rows are taken.
        config: What its columns are called, and what words the prompt.

    Raises:
        NotFoundError: If there is no such file or data set.
        RowError: If the file cannot be cut into rows; the message names the line.
        InputError, ParameterError: If the file, the columns' map or the template cannot be used.
    """
    given = _SPEC.fullmatch(spec)
    if given is None:
        raise ParameterError(f"no file is named in {spec!r}")
    path = given["path"]
    rows, data_hash = _rows(path)
    wording = Wording(
        template=None
        if config.prompt_template is None
        else PromptTemplate.from_file(config.prompt_template),
        allow_repeated_options=config.allow_repeated_options,
    )
    column_to_role = _column_map(config.map)
    taken = _taken(rows, given["count"], given["weight"], spec)
    examples: list[Example] = []
    faults: list[RowError] = []
    for row in taken:
        try:
            examples += _examples(path, _renamed(row, column_to_role, path), wording)
        except RowError as error:
            faults.append(error)
    return Source(
        name=spec,
        rows=tuple(taken),
        examples=tuple(examples),
        faults=tuple(faults),
        data_hash=data_hash,
    )


def _rows(path: str) -> tuple[Sequence[Row], str]:
    is_hub_id = _HUB_ID.fullmatch(path)
    if is_hub_id and not Path(path).exists() and not Path(path).suffix:
        return _hub_rows(is_hub_id["name"], is_hub_id["split"] or "train")
    if not Path(path).suffix and not Path(path).exists():
        raise NotFoundError(
            f"no file {path}; a data set of the Hugging Face hub is named owner/name"
        )
    file = read_rows(path)
    return file.rows, file.data_hash


def _hub_rows(name: str, split: str) -> tuple[Sequence[Row], str]:
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the data set {name}", extra="train") from error
    try:
        columns = load_dataset(name, split=split).to_list()
    except Exception as error:  # each kind of data set has its own ways to fail
        raise NotFoundError(f"no file {name}, and no data set of the hub: {error}") from error
    digest = hashlib.sha256(json.dumps(columns, sort_keys=True, default=str).encode())
    rows = [Row(number=i, row_id=str(i), data=each) for i, each in enumerate(columns, start=1)]
    return rows, digest.hexdigest()


def _taken(rows: Sequence[Row], count: str | None, weight: str | None, spec: str) -> Sequence[Row]:
    if count is not None:
        wanted = int(count)
    elif weight is not None:
        wanted = round(float(weight) * len(rows))
    else:
        return rows
    if wanted == 0 or (count is not None and wanted > len(rows)):
        raise ParameterError(f"{spec} takes {wanted} of {len(rows)} rows; take 1 to {len(rows)}")
    whole, rest = divmod(wanted, len(rows))
    places = sorted(Random(_SEED).sample(range(len(rows)), rest))
    return [*list(rows) * whole, *(rows[place] for place in places)]


def _column_map(given: Sequence[str]) -> dict[str, str]:
    """From a column of the file to what it is here."""
    column_to_role = {}
    for each in given:
        role, _, column = each.partition("=")
        if not role or not column:
            raise ParameterError(f"--map takes ROLE=COLUMN, such as reply=summary, not {each!r}")
        column_to_role[column] = role
    return column_to_role


def _renamed(row: Row, column_to_role: dict[str, str], path: str) -> Row:
    """A row with the mapped columns under both names: a template may want the file's own."""
    if not column_to_role:
        return row
    missing = [column for column in column_to_role if column not in row.data]
    if missing:
        raise RowError(
            f"no column {missing[0]!r}, which --map names; its columns are: {', '.join(row.data)}",
            path=path,
            line=row.number,
        )
    roles = {role: row.data[column] for column, role in column_to_role.items()}
    return Row(number=row.number, row_id=row.row_id, data={**row.data, **roles})


def _examples(path: str, row: Row, wording: Wording) -> list[Example]:
    try:
        return read_row(row, Origin(path=path, row=row.number), wording)
    except InputError as error:
        raise RowError(str(error), path=path, line=row.number) from error
