"""The rows of a data file: jsonl, json, csv, parquet or plain lines, each with its number and id.

Knows how a file is cut into rows and what a row is called; what a row asks is not known here.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO, StringIO
from pathlib import Path
from typing import NoReturn

from martlet.errors import InputError, MissingExtraError, NotFoundError, RowError

_CSV_JSON_COLUMNS = ("messages", "history", "questions", "options")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a data file."""

    number: int
    """The line it starts on, counted from 1; in json and parquet, its place in the list."""
    row_id: str
    """Its `id` or `custom_id` if the file holds that once, else a hash of its content: the name
    does not depend on its place, so a shuffled file draws the same samples."""
    data: Mapping[str, object]
    """Its columns, all of which JSON can hold."""


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """A data file that was read as a whole."""

    path: str
    """The file, as the user named it."""
    data_hash: str
    """SHA-256 of the file's bytes."""
    size_bytes: int
    rows: tuple[Row, ...]
    """At least one row."""


@dataclass(frozen=True, kw_only=True)
class _Content:
    path: str
    content: bytes

    def fail(self, reason: str, line: int) -> NoReturn:
        """Refuses the file for one of its lines."""
        raise RowError(reason, path=self.path, line=line)

    def text(self) -> str:
        """Decodes UTF-8, with or without a byte order mark."""
        try:
            return self.content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = self.content.count(b"\n", 0, error.start) + 1
            self.fail(f"not UTF-8: {error.reason}; save the file as UTF-8", line)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Lines that are not blank, with their numbers."""
        for number, line in enumerate(self.text().split("\n"), start=1):
            if line.strip():
                yield number, line.removesuffix("\r")


_NumberedData = Iterator[tuple[int, Mapping[str, object]]]


def read_rows(path: str) -> RowFile:
    """Reads a data file by its suffix; `-` reads JSON lines from the standard input.

    In csv the first line names the columns, and `messages`, `history`, `questions` and `options`
    may hold JSON. Blank lines are skipped but counted.

    Raises:
        NotFoundError: If there is no such file.
        RowError: If a line cannot be read; the file is refused as a whole.
        InputError: If the suffix is unknown, or the file unreadable or without a row.
        MissingExtraError: If the file is parquet and pyarrow is not installed.
    """
    parse = _parser_of(path)
    source = _Content(path=path, content=_read_bytes(path))
    numbered = list(parse(source))
    if not numbered:
        raise InputError(f"{path} holds no rows")
    return RowFile(
        path=path,
        data_hash=sha256(source.content).hexdigest(),
        size_bytes=len(source.content),
        rows=tuple(_named_rows(source, numbered)),
    )


def _parser_of(path: str) -> Callable[[_Content], _NumberedData]:
    suffix = ".jsonl" if path == "-" else Path(path).suffix.lower()
    if suffix not in _PARSERS:
        allowed = ", ".join(_PARSERS)
        raise InputError(
            f"{path}: unknown kind of file {suffix!r}; a data file is one of {allowed}"
        )
    return _PARSERS[suffix]


def _read_bytes(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"no such data file: {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _json_lines(source: _Content) -> _NumberedData:
    for number, line in source.lines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            source.fail(f"invalid JSON: {error.msg} at column {error.colno}", number)
        except (ValueError, RecursionError) as error:
            source.fail(f"invalid JSON: {error}", number)
        yield number, _as_columns(source, value, number)


def _json_list(source: _Content) -> _NumberedData:
    try:
        values = json.loads(source.text())
    except json.JSONDecodeError as error:
        hint = "; name a file with one object a line .jsonl" if error.msg == "Extra data" else ""
        source.fail(f"invalid JSON: {error.msg} at column {error.colno}{hint}", error.lineno)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source.path}: invalid JSON: {error}") from None
    if not isinstance(values, list):
        raise InputError(f"{source.path}: a .json file holds one list of rows")
    for number, value in enumerate(values, start=1):
        yield number, _as_columns(source, value, number)


def _as_columns(source: _Content, value: object, number: int) -> Mapping[str, object]:
    if not isinstance(value, dict):
        source.fail(f"a row is a JSON object, not {type(value).__name__}", number)
    return value


def _csv_records(source: _Content) -> _NumberedData:
    reader = csv.reader(StringIO(source.text(), newline=""), strict=True)
    header: list[str] | None = None
    number = 1
    try:
        for record in reader:
            if header is None and record:
                header = _csv_header(source, record, number)
            elif header is not None and record:
                yield number, _csv_columns(source, header, record, number)
            number = reader.line_num + 1
    except csv.Error as error:
        source.fail(f"invalid csv: {error}", number)


def _csv_header(source: _Content, record: list[str], number: int) -> list[str]:
    repeated = [name for name, count in Counter(record).items() if count > 1]
    if repeated:
        source.fail(f"the column {repeated[0]!r} is named more than once", number)
    return record


def _csv_columns(
    source: _Content, header: list[str], record: list[str], number: int
) -> Mapping[str, object]:
    if len(record) != len(header):
        source.fail(f"{len(record)} cells under {len(header)} column names", number)
    columns: dict[str, object] = dict(zip(header, record, strict=True))
    for name in _CSV_JSON_COLUMNS:
        cell = columns.get(name)
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            try:
                columns[name] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                source.fail(f"the column {name!r} holds invalid JSON: {error}", number)
    return columns


def _parquet_records(source: _Content) -> _NumberedData:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("reading parquet", extra="parquet") from None
    try:
        records = parquet.read_table(BytesIO(source.content)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{source.path} is not a readable parquet file: {error}") from None
    yield from enumerate(records, start=1)


def _plain_lines(source: _Content) -> _NumberedData:
    for number, line in source.lines():
        yield number, {"prompt": line}


_PARSERS: Mapping[str, Callable[[_Content], _NumberedData]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".csv": _csv_records,
    ".parquet": _parquet_records,
    ".txt": _plain_lines,
}


def _named_rows(
    source: _Content, numbered: list[tuple[int, Mapping[str, object]]]
) -> Iterator[Row]:
    given_ids = [_given_id(data) for _, data in numbered]
    num_with_id = Counter(given_ids)
    num_with_content: Counter[str] = Counter()
    for (number, data), given_id in zip(numbered, given_ids, strict=True):
        content_hash = _content_hash(source, data, number)
        if given_id is not None and num_with_id[given_id] == 1:
            yield Row(number=number, row_id=given_id, data=data)
            continue
        num_with_content[content_hash] += 1
        # Equal rows are told apart by how many came before: swapping them changes nothing.
        row_id = f"row-{content_hash}.{num_with_content[content_hash]}"
        yield Row(number=number, row_id=row_id, data=data)


def _given_id(data: Mapping[str, object]) -> str | None:
    for name in ("id", "custom_id"):
        value = data.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def _content_hash(source: _Content, data: Mapping[str, object], number: int) -> str:
    """Hashes a row, which also proves that the row can be written again as JSON in UTF-8."""
    try:
        content = json.dumps(data, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
    except UnicodeEncodeError:
        source.fail("a text holds half of a surrogate pair, which UTF-8 cannot hold", number)
    except (TypeError, ValueError) as error:
        source.fail(f"a value that JSON cannot hold: {error}", number)
    return sha256(content).hexdigest()[:16]
