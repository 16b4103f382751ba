"""The turns of a conversation, and what is left of it without the oldest of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from martlet.text.messages import Message, checked_turn

_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, kw_only=True)
class Turns:
    """A conversation by turns.

    A turn is a user's message with all that answers it; what stands before the first one is a turn
    of its own. System messages, wherever they stand, belong to no turn.
    """

    messages: Sequence[Message]
    numbers: Sequence[int | None]
    """The turn of each message, counted from 0; None for system messages."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Turns":
        """Finds the turns of messages that a chat template has taken."""
        numbers: list[int | None] = []
        newest = -1
        for message in messages:
            if message.get("role") in _SYSTEM_ROLES:
                numbers.append(None)
                continue
            if message.get("role") == "user" or newest < 0:
                newest += 1
            numbers.append(newest)
        return cls(messages=messages, numbers=numbers)

    @property
    def last(self) -> int:
        """The number of the newest turn."""
        return max((number for number in self.numbers if number is not None), default=0)

    def without(self, num_turns: int, num_characters: int) -> list[Message]:
        """What is left without the oldest turns and the next one's first characters."""
        kept: list[Message] = []
        for index, (message, number) in enumerate(zip(self.messages, self.numbers, strict=True)):
            if number is not None and number < num_turns:
                continue
            if number == num_turns and num_characters:
                content = _content(message, index)
                kept.append({**message, "content": content[num_characters:]})
                num_characters -= min(num_characters, len(content))
            else:
                kept.append(message)
        return kept

    def num_messages_before(self, turn: int) -> int:
        """Messages of the turns that are older than one."""
        return sum(number is not None and number < turn for number in self.numbers)

    def num_characters(self, turn: int) -> int:
        """The length of a turn's contents."""
        return sum(
            len(_content(message, index))
            for index, message in enumerate(self.messages)
            if self.numbers[index] == turn
        )


def _content(message: Message, index: int) -> str:
    content = checked_turn(message, index)["content"]
    assert isinstance(content, str), "a checked turn's content is one text"
    return content
