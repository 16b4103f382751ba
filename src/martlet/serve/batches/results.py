"""The files that a batch makes: a line for each row, in the order of the input."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self


class ResultFile:
    """Takes lines as rows finish, and writes them in the order of the rows.

    What is taken lies on the disk, not in memory; it is gone if the process ends, and made again
    from the journal.

    Args:
        folder: On the disk that the file will lie on.
    """

    def __init__(self, folder: Path) -> None:
        self._lines = TemporaryFile(dir=folder)  # noqa: SIM115  # closed with this object
        self._number_to_span: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()

    def __contains__(self, number: int) -> bool:
        return number in self._number_to_span

    def __len__(self) -> int:
        return len(self._number_to_span)

    def put(self, number: int, line: Mapping[str, object]) -> None:
        """Takes the line of the row with this number."""
        content = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._number_to_span[number] = (self._lines.tell(), len(content))
        self._lines.write(content)

    def write(self, path: Path) -> None:
        """Writes all lines to a file, which replaces one that is there."""
        with path.open("wb") as target:
            for _, (start, length) in sorted(self._number_to_span.items()):
                self._lines.seek(start)
                target.write(self._lines.read(length))
            target.flush()
            os.fsync(target.fileno())  # the database is about to say that it is there


def answered(reply_id: str, custom_id: str, body: Mapping[str, object]) -> Mapping[str, object]:
    """The line of a row that has a reply."""
    return _line(reply_id, custom_id, response=_response(reply_id, 200, body))


def refused(
    reply_id: str, custom_id: str, body: Mapping[str, object], *, status: int
) -> Mapping[str, object]:
    """The line of a row that failed as a request does."""
    return _line(reply_id, custom_id, response=_response(reply_id, status, body))


def unasked(reply_id: str, custom_id: str, *, code: str, message: str) -> Mapping[str, object]:
    """The line of a row that was not drawn."""
    return _line(reply_id, custom_id, error={"code": code, "message": message})


def _response(reply_id: str, status: int, body: Mapping[str, object]) -> Mapping[str, object]:
    return {"status_code": status, "request_id": f"req-{reply_id}", "body": body}


def _line(
    reply_id: str,
    custom_id: str,
    *,
    response: Mapping[str, object] | None = None,
    error: Mapping[str, object] | None = None,
) -> Mapping[str, object]:
    return {
        "id": f"batch_req_{reply_id}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
