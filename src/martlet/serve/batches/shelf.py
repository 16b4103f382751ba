"""A table of JSON objects in the order in which they came: files, batches, jobs, events."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from martlet.errors import NotFoundError

Json = Mapping[str, object]
Order = Literal["asc", "desc"]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list."""

    bodies: Sequence[Json]
    has_more: bool

    def as_json(self) -> dict[str, object]:
        """The list as OpenAI's clients read it."""
        ids = [str(body["id"]) for body in self.bodies]
        ends = {"first_id": ids[0], "last_id": ids[-1]} if ids else {"first_id": "", "last_id": ""}
        return {"object": "list", "data": self.bodies, **ends, "has_more": self.has_more}


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Objects of one kind. Every method is to be called within `Database.do`."""

    kind: Literal["file", "batch", "job", "event"]

    def put(self, connection: sqlite3.Connection, body: Json) -> None:
        """Adds an object, or replaces the one with its id in its place."""
        connection.execute(
            f"INSERT INTO {self.kind} (id, body) VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (body["id"], json.dumps(body)),
        )

    def get(self, connection: sqlite3.Connection, name: str) -> Json:
        """An object by its id.

        Raises:
            NotFoundError: If there is none.
        """
        row = connection.execute(f"SELECT body FROM {self.kind} WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise NotFoundError(f"there is no {self.kind} {name!r}")
        return _read(row)

    def remove(self, connection: sqlite3.Connection, name: str) -> None:
        """Forgets an object."""
        connection.execute(f"DELETE FROM {self.kind} WHERE id = ?", (name,))

    def all(self, connection: sqlite3.Connection) -> list[Json]:
        """All objects, the oldest first."""
        return [*map(_read, connection.execute(f"SELECT body FROM {self.kind} ORDER BY number"))]

    def page(
        self,
        connection: sqlite3.Connection,
        *,
        limit: int,
        after: str | None = None,
        order: Order = "desc",
        where: Json | None = None,
    ) -> Page:
        """Some of the objects.

        Args:
            limit: At most so many.
            after: Only those behind the object with this id.
            order: By their age; `desc` begins with the newest.
            where: Fields of the objects, by name.

        Raises:
            NotFoundError: If there is no object `after`.
        """
        conditions, values = ["TRUE"], list[object]()
        if after is not None:
            self.get(connection, after)
            sign = "<" if order == "desc" else ">"
            conditions.append(f"number {sign} (SELECT number FROM {self.kind} WHERE id = ?)")
            values.append(after)
        for name, value in (where or {}).items():
            conditions.append("json_extract(body, ?) = ?")
            values += [f"$.{name}", value]
        rows = connection.execute(
            f"SELECT body FROM {self.kind} WHERE {' AND '.join(conditions)} "
            f"ORDER BY number {order} LIMIT ?",
            (*values, limit + 1),
        ).fetchall()
        return Page(bodies=[*map(_read, rows[:limit])], has_more=len(rows) > limit)


def _read(row: tuple[str]) -> Json:
    body: dict[str, object] = json.loads(row[0])
    return body


FILES = Shelf(kind="file")
BATCHES = Shelf(kind="batch")
JOBS = Shelf(kind="job")
EVENTS = Shelf(kind="event")
