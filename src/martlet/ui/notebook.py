"""What a chat does with the store: asks, keeps replies, turns to branches, takes rows out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from martlet.errors import NotFoundError
from martlet.ui.store import Conversation, Store
from martlet.ui.tree import Tree, Turn, messages_of


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a page stands: a conversation, and the last turn of the branch that it shows."""

    conversation: str | None = None
    leaf: int | None = None


class Notebook:
    """The conversations of one browser.

    Args:
        store: Keeps them.
        browser: The browser's id.
    """

    def __init__(self, store: Store, browser: str) -> None:
        self._store = store
        self._browser = browser

    def conversations(self) -> Sequence[Conversation]:
        """All of them, the one used last first."""
        return self._store.conversations(self._browser)

    def open(self, conversation: str) -> tuple[Place, str]:
        """Where a conversation was left, and its system message."""
        leaves = self._store.tree(self._browser, conversation).leaves()
        place = Place(conversation=conversation, leaf=max(leaves, default=None))
        return place, self._store.get(self._browser, conversation).system

    def tree(self, place: Place) -> Tree:
        """All branches around a place."""
        if place.conversation is None:
            return Tree()
        return self._store.tree(self._browser, place.conversation)

    def ask(self, place: Place, text: str, system: str) -> Place:
        """Writes a question behind a place; the first one begins a conversation."""
        conversation, leaf = place.conversation, place.leaf
        if conversation is None:
            conversation = self._store.begin(self._browser, question=text, system=system)
        branch = self._store.tree(self._browser, conversation).branch(leaf)
        if branch and branch[-1].role == "user":  # it never got a reply
            leaf = branch[-1].parent
        self._store.set_system(self._browser, conversation, system)
        turn = self._store.add_turn(
            self._browser, conversation, parent=leaf, role="user", content=text
        )
        return Place(conversation=conversation, leaf=turn)

    def ask_again(self, place: Place, index: int, system: str) -> Place:
        """The question at an index of a branch, under a system message that may have changed."""
        if place.conversation is not None:
            self._store.set_system(self._browser, place.conversation, system)
        return self._question_at(place, index)

    def ask_otherwise(self, place: Place, index: int, text: str, system: str) -> Place:
        """Writes a question beside the one at an index of a branch."""
        old = self._question_at(place, index)
        parent = self.tree(place).branch(old.leaf)[-1].parent
        return self.ask(replace(place, leaf=parent), text, system)

    def keep_reply(self, question: Place, text: str, facts: Mapping[str, object]) -> Place:
        """Writes a reply behind its question; what said nothing is no reply.

        Returns:
            Where the conversation is; nowhere if it was deleted meanwhile.
        """
        if not text or question.conversation is None:
            return question
        try:
            leaf = self._store.add_turn(
                self._browser,
                question.conversation,
                parent=question.leaf,
                role="assistant",
                content=text,
                facts=facts,
            )
        except NotFoundError:
            return Place()
        return replace(question, leaf=leaf)

    def forget(self, place: Place) -> None:
        """Deletes a conversation with all its branches."""
        if place.conversation is not None:
            self._store.forget(self._browser, place.conversation)

    def rows(self, place: Place) -> str:
        """A training row for each conversation: the branch at the place, else the newest one."""
        lines = []
        for conversation in self.conversations():
            tree = self._store.tree(self._browser, conversation.id)
            is_shown = conversation.id == place.conversation
            leaf = place.leaf if is_shown else max(tree.leaves(), default=None)
            if answered := _answered(tree.branch(leaf)):
                row = {"messages": messages_of(answered, conversation.system)}
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        return "".join(lines)

    def _question_at(self, place: Place, index: int) -> Place:
        """The question that is shown at an index, or that the reply there answers."""
        branch = self.tree(place).branch(place.leaf)
        turn = branch[index] if branch[index].role == "user" else branch[index - 1]
        return replace(place, leaf=turn.id)


def _answered(branch: list[Turn]) -> list[Turn]:
    """A branch up to its last reply."""
    return branch[:-1] if branch and branch[-1].role == "user" else branch
