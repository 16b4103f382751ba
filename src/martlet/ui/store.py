"""What browsers keep on the server: conversations and preferences, in one SQLite file.

A browser is known by a random id of its own; nothing is found without it.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from uuid import uuid4

from martlet.errors import NotFoundError, ResourceError
from martlet.ui.tree import Role, Tree, Turn

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversation (
    id TEXT PRIMARY KEY, browser TEXT NOT NULL, title TEXT NOT NULL, system TEXT NOT NULL,
    used REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS turn (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversation ON DELETE CASCADE,
    parent INTEGER, role TEXT NOT NULL, content TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS preference (
    id INTEGER PRIMARY KEY AUTOINCREMENT, browser TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS conversation_browser ON conversation (browser, used);
CREATE INDEX IF NOT EXISTS turn_conversation ON turn (conversation);
CREATE INDEX IF NOT EXISTS preference_browser ON preference (browser);
"""
_TITLE_LENGTH = 40


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation, without its turns."""

    id: str
    title: str
    system: str


class Store:
    """The file; made when it is first used, and safe to be used by several threads.

    Args:
        path: Where it is. Its folder is made too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def conversations(self, browser: str) -> Sequence[Conversation]:
        """The conversations of a browser, the one used last first.

        Raises:
            ResourceError: If the file cannot be used; so do all methods.
        """
        with self._transaction(browser) as connection:
            rows = connection.execute(
                "SELECT id, title, system FROM conversation WHERE browser = ? "
                "ORDER BY used DESC, rowid DESC",
                (browser,),
            ).fetchall()
        return [Conversation(id=row[0], title=row[1], system=row[2]) for row in rows]

    def get(self, browser: str, conversation: str) -> Conversation:
        """One of them.

        Raises:
            NotFoundError: If the browser has no such conversation; so do the methods below.
        """
        with self._transaction(browser) as connection:
            row = _owned(connection, browser, conversation)
        return Conversation(id=row[0], title=row[1], system=row[2])

    def begin(self, browser: str, *, question: str, system: str) -> str:
        """Begins a conversation that is called after its first question; returns its id."""
        conversation, title = uuid4().hex, " ".join(question.split())
        short = title if len(title) <= _TITLE_LENGTH else f"{title[: _TITLE_LENGTH - 1]}…"
        with self._transaction(browser) as connection:
            connection.execute(
                "INSERT INTO conversation VALUES (?, ?, ?, ?, ?)",
                (conversation, browser, short, system, time.time()),
            )
        return conversation

    def tree(self, browser: str, conversation: str) -> Tree:
        """All turns of a conversation."""
        with self._transaction(browser) as connection:
            _owned(connection, browser, conversation)
            rows = connection.execute(
                "SELECT id, parent, role, content, facts FROM turn WHERE conversation = ? "
                "ORDER BY id",
                (conversation,),
            ).fetchall()
        return Tree(
            [
                Turn(
                    id=row[0], parent=row[1], role=row[2], content=row[3], facts=json.loads(row[4])
                )
                for row in rows
            ]
        )

    def add_turn(
        self,
        browser: str,
        conversation: str,
        *,
        parent: int | None,
        role: Role,
        content: str,
        facts: Mapping[str, object] | None = None,
    ) -> int:
        """Adds a turn behind another and returns its id."""
        with self._transaction(browser) as connection:
            _owned(connection, browser, conversation)
            connection.execute(
                "UPDATE conversation SET used = ? WHERE id = ?", (time.time(), conversation)
            )
            cursor = connection.execute(
                "INSERT INTO turn (conversation, parent, role, content, facts) "
                "VALUES (?, ?, ?, ?, ?)",
                (conversation, parent, role, content, json.dumps(facts or {})),
            )
        return int(cursor.lastrowid or 0)

    def set_system(self, browser: str, conversation: str, system: str) -> None:
        """Changes the system message from the next reply on."""
        with self._transaction(browser) as connection:
            _owned(connection, browser, conversation)
            connection.execute(
                "UPDATE conversation SET system = ? WHERE id = ?", (system, conversation)
            )

    def forget(self, browser: str, conversation: str) -> None:
        """Deletes a conversation with all its branches."""
        with self._transaction(browser) as connection:
            _owned(connection, browser, conversation)
            connection.execute("DELETE FROM conversation WHERE id = ?", (conversation,))

    def keep_preferences(
        self, browser: str, rows: Sequence[Mapping[str, object]], *, instead_of: Sequence[int] = ()
    ) -> list[int]:
        """Keeps training rows with `chosen` and `rejected`, and returns their ids.

        Args:
            browser: The browser's id.
            rows: What is kept.
            instead_of: Ids of earlier rows of the browser, which are deleted.
        """
        insertion = "INSERT INTO preference (browser, body) VALUES (?, ?)"
        old = [(browser, each) for each in instead_of]
        with self._transaction(browser) as connection:
            connection.executemany("DELETE FROM preference WHERE browser = ? AND id = ?", old)
            cursors = [
                connection.execute(insertion, (browser, json.dumps(row, ensure_ascii=False)))
                for row in rows
            ]
        return [int(cursor.lastrowid or 0) for cursor in cursors]

    def preferences(self, browser: str) -> list[str]:
        """The rows of a browser, each a line of JSON, the oldest first."""
        with self._transaction(browser) as connection:
            rows = connection.execute(
                "SELECT body FROM preference WHERE browser = ? ORDER BY id", (browser,)
            ).fetchall()
        return [row[0] for row in rows]

    def forget_preferences(self, browser: str) -> None:
        """Deletes the rows of a browser."""
        with self._transaction(browser) as connection:
            connection.execute("DELETE FROM preference WHERE browser = ?", (browser,))

    @contextmanager
    def _transaction(self, browser: str) -> Iterator[sqlite3.Connection]:
        """All that is written in it is kept, or nothing."""
        if not browser:  # what is kept under no id, all would see
            raise NotFoundError("this browser has no id yet; load the page again")
        try:
            with self._lock:
                self._connection = self._connection or _opened(self._path)
                with self._connection:
                    yield self._connection
        except (sqlite3.Error, OSError) as error:
            raise ResourceError(
                f"conversations cannot be kept in {self._path}: {error}; give --data-dir another "
                "folder"
            ) from error


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript(_SCHEMA)
    return connection


def _owned(connection: sqlite3.Connection, browser: str, conversation: str) -> tuple[str, str, str]:
    row: tuple[str, str, str] | None = connection.execute(
        "SELECT id, title, system FROM conversation WHERE id = ? AND browser = ?",
        (conversation, browser),
    ).fetchone()
    if row is None:
        raise NotFoundError("this browser has no such conversation; begin a new one")
    return row
