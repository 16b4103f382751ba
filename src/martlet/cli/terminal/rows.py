"""Conversations in a file, one a line, as training reads them: `{"messages": [...]}`."""

import json
from collections.abc import Sequence
from pathlib import Path

from martlet.errors import InputError, NotFoundError, ResourceError, RowError
from martlet.text.messages import Message


def append_row(path: Path, messages: Sequence[Message]) -> int:
    """Adds a conversation to a file, which is made if it is not there.

    Returns:
        The number of its line, counted from 1.

    Raises:
        ResourceError: If it cannot be written.
    """
    line = json.dumps({"messages": list(messages)}, ensure_ascii=False)
    try:
        with path.open("a+b") as file:
            file.seek(0)
            before = file.read()
            gap = "" if not before or before.endswith(b"\n") else "\n"
            file.write(f"{gap}{line}\n".encode())
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {error.strerror}") from error
    return before.count(b"\n") + len(gap) + 1


def read_row(path: Path, number: int | None) -> tuple[int, Sequence[Message]]:
    """Reads a conversation.

    Args:
        number: Its line, counted from 1; None for the last.

    Returns:
        The number of the line, and its messages.

    Raises:
        NotFoundError: If there is no such file.
        InputError: If it cannot be read, or has no such line.
        RowError: If the line holds no conversation.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    wanted = len(lines) if number is None else number
    if not 1 <= wanted <= len(lines):
        raise InputError(f"{path} has {len(lines)} lines, and no line {wanted}")
    try:
        row = json.loads(lines[wanted - 1])
    except ValueError as error:
        raise RowError(f"no JSON: {error}", path=str(path), line=wanted) from None
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise RowError('a conversation is {"messages": [...]}', path=str(path), line=wanted)
    return wanted, messages
