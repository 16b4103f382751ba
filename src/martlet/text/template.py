"""The chat template: a conversation in, the text that the model was trained to see out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.errors import NotFoundError, TemplateError
from martlet.text.messages import Message, checked_turn
from martlet.text.tool_calls.functions import Tool, read_functions

if TYPE_CHECKING:
    from martlet.text.inner import InnerTokenizer

_REPLY_MARK = "martlet-looks-for-the-end-of-this-turn"


def read_template(path: Path) -> str:
    """The source of a template in a file of its own.

    Raises:
        NotFoundError: If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"no chat template at {path}: {error.strerror}") from error


class ChatTemplate:
    """A Jinja chat template, rendered as transformers renders it.

    Args:
        source: The Jinja source.
        tokenizer: Gives the template its special tokens (`bos_token` and the like).
        tool_source: What takes its place where tools are given; None if one does for both.
    """

    def __init__(
        self, source: str, tokenizer: InnerTokenizer, *, tool_source: str | None = None
    ) -> None:
        self.source = source
        self.tool_source = source if tool_source is None else tool_source
        self.hash = sha256(f"{source}{tool_source or ''}".encode()).hexdigest()[:16]
        self._tokenizer = tokenizer

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            messages: The turns, oldest first; each needs a `role`, and a `content` that is text or
                a list of text parts (an assistant's turn with `tool_calls` may go without).
            add_generation_prompt: Whether to end with the opening of the assistant's next turn.
            tools: Functions that the model may call, as OpenAI declares them.
            variables: What else the template looks at, such as `enable_thinking`.

        Raises:
            TemplateError: If a message is malformed, or the template is broken, refuses, ignores
                the tools, or does not look at a variable.
            ParameterError: If a tool is malformed.
        """
        turns = [checked_turn(message, index) for index, message in enumerate(messages)]
        if not turns:
            raise TemplateError("a conversation needs at least one message; none was given")
        given = dict(variables or {})
        if given:
            self._check_variables(given)
        given["add_generation_prompt"] = add_generation_prompt
        rendered = self._apply(self.source, turns, given)
        if not tools:
            return rendered
        read_functions(tools)
        shown = {**given, "tools": [dict(tool) for tool in tools]}
        with_tools = self._apply(self.tool_source, turns, shown)
        if with_tools == rendered:
            raise TemplateError(
                "the chat template does not show tools to the model; leave tools out, or use a "
                "model or --chat-template that knows them"
            )
        return with_tools

    def _apply(
        self, source: str, turns: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        from jinja2 import TemplateSyntaxError

        try:
            rendered = self._tokenizer.apply_chat_template(
                list(map(dict, turns)), chat_template=source, tokenize=False, **variables
            )
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja, line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # a template is foreign code and may raise anything
            raise TemplateError(f"the chat template refuses the messages: {error}") from error
        return str(rendered)

    def _check_variables(self, given: Mapping[str, object]) -> None:
        reserved = {"messages", *signature(self._tokenizer.apply_chat_template).parameters}
        for name in given:
            looked_at = rf"\b{re.escape(name)}\b"
            if name in reserved or not re.search(looked_at, self.source + self.tool_source):
                raise TemplateError(f"the chat template does not look at a variable {name!r}")

    def find_end_of_turn(self, tokens: Iterable[str]) -> str | None:
        """Find which token the template puts behind an assistant's words.

        Args:
            tokens: The texts that may end a turn: the tokenizer's special and added tokens.

        Returns:
            The token's text, the longest that fits; None if the template puts none of them there
            or refuses an ordinary exchange of one question and one answer.
        """
        exchange = (
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": _REPLY_MARK},
        )
        try:
            rendered = self.render(exchange, add_generation_prompt=False)
        except TemplateError:
            return None
        # Some templates leave a space before the token, such as Llama 2's.
        tail = rendered.partition(_REPLY_MARK)[2].lstrip()
        fitting = (token for token in tokens if token and tail.startswith(token))
        return max(fitting, key=len, default=None)
