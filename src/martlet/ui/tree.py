"""A conversation with all its branches: a reply that was drawn anew stands beside the first one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message, and the one that it follows."""

    id: int
    parent: int | None
    role: Role
    content: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of a reply: who gave it, how long it took, what was left of the context."""


@dataclass(frozen=True)
class Tree:
    """The turns of a conversation, in the order in which they were said."""

    turns: Sequence[Turn] = ()

    def leaves(self) -> list[int]:
        """The last turn of each branch, the oldest branch first."""
        parents = {turn.parent for turn in self.turns}
        return [turn.id for turn in self.turns if turn.id not in parents]

    def branch(self, leaf: int | None) -> list[Turn]:
        """The turns from the first to a last one; none for None."""
        id_to_turn = {turn.id: turn for turn in self.turns}
        branch: list[Turn] = []
        while leaf is not None:
            branch.append(id_to_turn[leaf])
            leaf = branch[-1].parent
        return branch[::-1]

    def num_replies(self, question: Turn) -> int:
        """How many turns follow one."""
        return sum(turn.parent == question.id for turn in self.turns)


def messages_of(branch: Sequence[Turn], system: str) -> list[dict[str, str]]:
    """A branch as a request and a training row hold it."""
    head = [{"role": "system", "content": system}] if system.strip() else []
    return [*head, *({"role": turn.role, "content": turn.content} for turn in branch)]
