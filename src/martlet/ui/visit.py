"""Who asks in a chat, and what the server is asked for them."""

from dataclasses import dataclass

from martlet.ui.notebook import Notebook, Place
from martlet.ui.reply import chat_body
from martlet.ui.tree import Turn, messages_of


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A browser's notebook, and what the controls say at the moment of a question."""

    notebook: Notebook
    page: str
    key: str | None
    model: str
    system: str
    parameters: dict[str, object]

    def request(self, question: Place) -> tuple[list[Turn], dict[str, object]]:
        """The branch that ends with a question, and the body that asks for its reply."""
        tree = self.notebook.tree(question)
        branch = tree.branch(question.leaf)
        parameters = dict(self.parameters)
        if isinstance(seed := parameters.get("seed"), int):
            # With the same seed a further reply would be the one that is there.
            parameters["seed"] = seed + tree.num_replies(branch[-1])
        return branch, chat_body(self.model, messages_of(branch, self.system), parameters)
