"""What comes of a reply that may call functions: words and calls, in pieces or whole."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ContentDelta:
    """The next words of the reply."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ToolCallDelta:
    """The next piece of a call: first its id and name, then its arguments, bit by bit."""

    index: int
    """Which of the reply's calls, from 0."""
    id: str | None = None
    """With the first piece of a call only, as `name`."""
    name: str | None = None
    arguments: str = ""
    """A part of the JSON object, as the model wrote it."""


@dataclass(frozen=True, kw_only=True)
class BrokenCallDelta:
    """A call that has begun is not well-formed: its text is words after all."""

    index: int
    text: str


Delta = ContentDelta | ToolCallDelta | BrokenCallDelta


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A whole call."""

    id: str
    name: str
    arguments: str
    """A JSON object, as the model wrote it."""


@dataclass(frozen=True, kw_only=True)
class ParsedReply:
    """A whole reply."""

    content: str | None
    """The words; None for a reply of calls alone."""
    tool_calls: tuple[ToolCall, ...]


def join(deltas: Sequence[Delta]) -> ParsedReply:
    """The reply that was cut into pieces."""
    content: list[str] = []
    index_to_pieces: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        match delta:
            case ContentDelta(text=text):
                content.append(text)
            case ToolCallDelta(index=index):
                index_to_pieces.setdefault(index, []).append(delta)
            case BrokenCallDelta(index=index, text=text):
                content.append(text)
                del index_to_pieces[index]
    calls = tuple(
        ToolCall(
            id=pieces[0].id or "",
            name=pieces[0].name or "",
            arguments="".join(piece.arguments for piece in pieces),
        )
        for pieces in index_to_pieces.values()
    )
    text = "".join(content)
    return ParsedReply(content=None if calls and not text else text, tool_calls=calls)
