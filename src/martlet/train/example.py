"""One thing to learn from, whatever format its row had."""

from dataclasses import dataclass

from martlet.text.messages import Message
from martlet.text.tool_calls.functions import Tool


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an example comes from, as an editor shows it."""

    path: str
    """The file, as the user named it."""
    row: int
    """From 1: the line of a JSON lines file, the record of any other."""

    def __str__(self) -> str:
        return f"{self.path}, row {self.row}"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns, of which the assistant's are learned."""

    origin: Origin
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    untrained: frozenset[int] = frozenset()
    """Assistant turns that are context alone, by their places in `messages`."""
    options: tuple[str, ...] | None = None
    """What the last turn chooses from; the first is A."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Raw text and how it goes on; no chat template is applied."""

    origin: Origin
    prompt: str
    completion: str
    options: tuple[str, ...] | None = None
    """What the completion chooses from; the first is A."""


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One conversation and two ways to go on with it."""

    origin: Origin
    messages: tuple[Message, ...]
    chosen: tuple[Message, ...]
    """The better turns; mostly one, the assistant's."""
    rejected: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


Example = Conversation | Completion | Preference
