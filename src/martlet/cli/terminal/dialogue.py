"""What was said so far: the system message and the answered turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from martlet.text.messages import Message, checked_turn


@dataclass(kw_only=True)
class Dialogue:
    """A conversation between replies: a question enters it together with its answer."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    """All messages but the system message, oldest first."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "Dialogue":
        """Takes messages over, as a file holds them.

        Raises:
            TemplateError: If one is malformed.
        """
        checked = [checked_turn(message, index) for index, message in enumerate(messages)]
        if checked and checked[0]["role"] == "system":
            return cls(system=checked[0]["content"], turns=list(messages[1:]))
        return cls(turns=list(messages))

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return [*self._head, *self.turns]

    @property
    def last_question(self) -> str | None:
        """The question of the last turn; None before the first."""
        place = self._last_place
        return None if place is None else str(self.turns[place]["content"])

    def asking(self, question: str, *, again: bool = False) -> list[Message]:
        """The conversation with a question at its end.

        Args:
            again: Whether it takes the place of the last turn.
        """
        before = self.turns[: self._last_place] if again else self.turns
        return [*self._head, *before, {"role": "user", "content": question}]

    def answer(self, question: str, reply: str, *, again: bool = False) -> None:
        """Takes a question and its answer in; `again` as in `asking`."""
        place = self._last_place if again else len(self.turns)
        turn = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        self.turns[place:] = turn

    @property
    def _head(self) -> list[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    @property
    def _last_place(self) -> int | None:
        places = [place for place, turn in enumerate(self.turns) if turn["role"] == "user"]
        return places[-1] if places else None
