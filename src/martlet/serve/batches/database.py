"""What the server keeps of files, batches and jobs: one SQLite file in WAL mode, and its folder.

    DATA_DIR/martlet.sqlite       files, batches and tuning jobs, the newest state of each; events
    DATA_DIR/files/FILE_ID        what was uploaded, and what batches answered
    DATA_DIR/journals/BATCH_ID    the finished samples of a batch that runs

One server uses a folder at a time: the lock is SQLite's own and ends with the process.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from martlet.errors import MartletError, ResourceError, UnavailableError
from martlet.serve.worker import Worker

_Result = TypeVar("_Result")

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS batch (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS job (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL
);
"""
_PRIMARY_CODE = 0xFF
"""SQLite's extended result codes carry the primary one in their low byte."""


class Database:
    """The folder of what a server keeps. Nothing is created before the first use.

    Args:
        folder: Where everything lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "martlet.sqlite"
        self._connection: sqlite3.Connection | None = None
        self._worker = Worker("martlet-database")

    @property
    def exists(self) -> bool:
        """Whether there is one from an earlier use."""
        return self._path.exists()

    def file_path(self, file_id: str) -> Path:
        """Where the content of a file lies."""
        return self.folder / "files" / file_id

    def journal_path(self, batch_id: str) -> Path:
        """Where the finished samples of a batch lie."""
        return self.folder / "journals" / batch_id

    async def do(self, function: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Runs a function in a transaction: all that it writes is kept, or nothing.

        Raises:
            UnavailableError: If another server uses the folder, or it cannot be used at all.
            ResourceError: If the disk is full or fails.
        """

        def run() -> _Result:
            try:
                connection = self._connection or self._open()
                with connection:
                    return function(connection)
            except (sqlite3.Error, OSError) as error:
                raise self._named(error) from error

        return await self._worker.run(run)

    async def close(self) -> None:
        """Gives the folder to others."""
        if self._connection is not None:
            await self._worker.run(self._connection.close)
        self._worker.close()

    def _open(self) -> sqlite3.Connection:
        for name in ("files", "journals"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self._path, timeout=0)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _named(self, error: sqlite3.Error | OSError) -> MartletError:
        advice = "give this server a folder of its own with --data-dir"
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return UnavailableError(f"another server uses {self.folder}; {advice}")
        if self._connection is None:
            return UnavailableError(f"{self.folder} cannot be used ({error}); {advice}")
        return ResourceError(f"{self.folder} cannot be written: {error}; make room there")


def _prepare(connection: sqlite3.Connection) -> None:
    # Locked before WAL is entered, so that one server has the folder for itself.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _SCHEMA_VERSION):
        raise sqlite3.DatabaseError(f"its version is {version}, not {_SCHEMA_VERSION}")
    for statement in filter(str.strip, _SCHEMA.split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    connection.commit()
