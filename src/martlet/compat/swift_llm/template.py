"""How a query and what was said before become a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from martlet.backends.base import Prompt
from martlet.compat.model_types import OWN, PUBLISHED, RAW, published
from martlet.errors import ParameterError
from martlet.text.messages import Message

History = Sequence[tuple[str, str]]
"""Queries and their responses, oldest first."""
Request = Mapping[str, Any]
"""A `query`, and perhaps `history` and `system`."""
_KNOWN = ("query", "history", "system")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A way to word requests."""

    template_type: str
    default_system: str | None = None

    def prompt(self, request: Request) -> Prompt:
        """The prompt of a request.

        Raises:
            ParameterError: If it has no query, something that is not known, or a history that is
                not of pairs.
        """
        if self.template_type == RAW:
            _check(request, known=("query",))
            return Prompt(text=request["query"])
        _check(request, known=_KNOWN)
        system = request.get("system", self.default_system)
        return Prompt(messages=messages_of(request["query"], request.get("history"), system))


def get_default_template_type(model_type: str) -> str:
    """The template type of a model.

    Raises:
        ParameterError: If the model type is unknown.
    """
    known = published(model_type)
    return OWN if known is None else known.template_type


def get_template(
    template_type: str, tokenizer: object, default_system: str | None = None
) -> Template:
    """A template by its type.

    The engine applies the template of the model's folder, or, for models that are published without
    one, the rule that `get_vllm_engine` gave it; so every type but `default-generation`, which
    gives the query to the model as it stands, leads to the same prompts.

    Args:
        tokenizer: The engine's `hf_tokenizer`; it needs nothing from here.
        default_system: The system message of requests that have none.

    Raises:
        ParameterError: If there is no such type.
    """
    del tokenizer
    known = sorted({OWN, RAW, *(model.template_type for model in PUBLISHED.values())})
    if template_type not in known:
        raise ParameterError(f"no template type {template_type!r}; known: {', '.join(known)}")
    return Template(template_type=template_type, default_system=default_system)


def messages_of(query: str, history: History | None, system: str | None) -> list[Message]:
    """A conversation of pairs, with a query at its end."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for pair in history or ():
        if isinstance(pair, str) or len(pair) != 2:
            raise ParameterError(f"history is a list of (query, response), not of {pair!r}")
        asked, answered = pair
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    return [*messages, {"role": "user", "content": query}]


def _check(request: Request, *, known: Sequence[str]) -> None:
    if "query" not in request:
        raise ParameterError(f"a request needs a query; this one has {', '.join(request)}")
    for name, value in request.items():
        if name not in known and value:
            raise ParameterError(f"{name} of a request is not known here: {', '.join(known)} are")
