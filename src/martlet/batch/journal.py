"""The journal: every finished sample of a result, on disk as soon as its step ends.

One SQLite file beside the result, in WAL mode. A sample is in it wholly or not at all, whatever
ends the process; what is in it is never drawn again.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Self

from martlet.batch.sample import StoredSample
from martlet.errors import InputError, MartletError, ResourceError

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sample (
    key TEXT NOT NULL,
    k INTEGER NOT NULL,
    text TEXT NOT NULL,
    num_tokens INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    cumulative_logprob REAL,
    num_prompt_tokens INTEGER NOT NULL,
    num_cached_tokens INTEGER NOT NULL,
    error TEXT,
    tokens TEXT,
    PRIMARY KEY (key, k)
) WITHOUT ROWID
"""
_FINISHED = """
SELECT k AS "index", text, num_tokens, finish_reason, cumulative_logprob, num_prompt_tokens,
    num_cached_tokens, error, tokens
FROM sample WHERE key = ? AND error IS NULL
"""
_RECORD = """
INSERT OR REPLACE INTO sample VALUES (:key, :index, :text, :num_tokens, :finish_reason,
    :cumulative_logprob, :num_prompt_tokens, :num_cached_tokens, :error, :tokens)
"""
_PRIMARY_CODE = 0xFF
"""SQLite's extended result codes carry the primary one in their low byte."""


def journal_path(out: Path) -> Path:
    """Where the journal of a result lies."""
    return Path(f"{out}.journal")


class Journal:
    """Finished samples by (key, k). One process has it open at a time.

    The lock is SQLite's own and ends with the process, so none is left behind by `kill -9`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Opens or creates the file, and closes it at the end of the context.

        Raises:
            InputError: If another run has it open, or the file is no journal of this version.
            ResourceError: If the disk is full or fails.
        """
        with _errors_named(path):
            connection = sqlite3.connect(path, timeout=0)
            connection.row_factory = sqlite3.Row
        try:
            journal = cls(path, connection)
            journal._prepare()
            yield journal
        finally:
            connection.close()

    def finished(self, key: str) -> dict[int, StoredSample]:
        """The samples of a question that were drawn to their end, by k."""
        with _errors_named(self.path):
            rows = self._connection.execute(_FINISHED, (key,)).fetchall()
        return {row["index"]: StoredSample(**dict(row)) for row in rows}

    def record(self, key: str, sample: StoredSample) -> None:
        """Takes a sample, finished or failed, in place of a failed one; `commit` makes it last.

        Raises:
            ResourceError: If the disk is full or fails.
        """
        with _errors_named(self.path):
            self._connection.execute(_RECORD, {"key": key, **asdict(sample)})

    def commit(self) -> None:
        """Makes what was recorded since the last call last, all of it or nothing.

        Raises:
            ResourceError: If the disk is full or fails.
        """
        with _errors_named(self.path):
            self._connection.commit()

    def _prepare(self) -> None:
        with _errors_named(self.path):
            # Locked before WAL is entered, SQLite keeps the WAL's index in memory: no third file,
            # and file systems without shared memory will do.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA_VERSION):
                raise InputError(f"{self.path} is a journal of another version; move it away")
            self._connection.execute(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            self._connection.commit()


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _named_error(error, path) from error


def _named_error(error: sqlite3.Error, path: Path) -> MartletError:
    match getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return InputError(
                f"another run has {path} open; wait for it to end, or choose another --out"
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return InputError(f"{path} is not a readable journal ({error}); move it away")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return InputError(f"{path} cannot be written: {error}")
        case _:
            return ResourceError(f"{path} cannot be kept: {error}; what it holds already is safe")
