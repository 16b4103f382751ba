"""Chat templates rendered in a sandbox, with what transformers gives them.

A template comes with a model and is not trusted. It sees plain values alone, cannot change them,
and is kept from what lies behind their attributes. The names and filters that it may use are those
of transformers' documentation ("Writing a chat template").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.parser import Parser

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which messages carry what a model thought; templates know one or another."""


def render_chat(
    source: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
    """Renders a conversation.

    Args:
        source: Of the template.
        messages: The turns; what is None in one is as if it were not there.
        variables: What else the template may look at.

    Raises:
        TemplateError: If the template cannot be read, or refuses; of jinja2.
        Exception: Whatever else goes wrong inside it.
    """
    turns = [_with_reasoning(message) for message in messages]
    return _compiled(source).render(messages=_plain(turns), **_plain(variables))


def _with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    turn = {name: value for name, value in message.items() if value is not None}
    reasoning = next((turn[name] for name in _REASONING if name in turn), None)
    if reasoning is None:
        return turn
    return {"thinking": reasoning, **turn, "reasoning_content": reasoning}


def _plain(values: Any) -> Any:
    """The same of JSON's types; of what is none of them, only the name of its type."""
    return json.loads(json.dumps(values, default=lambda value: f"<{type(value).__name__}>"))


@cache
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_refuse,
        strftime_now=_now,
        dict=_Dict(),
        namespace=_Namespace,
    )
    return environment.from_string(source)


class _Generation(Extension):
    """Marks what a model is trained to say; a prompt takes it as it is."""

    tags = {"generation"}  # noqa: RUF012 -- Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Dict:
    """Makes dictionaries, without the attributes of their class."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Holds what a template sets, under names that are not Python's own."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *given = args
        values = dict(*given, **values)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a template may not set {name!r} in a namespace")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
