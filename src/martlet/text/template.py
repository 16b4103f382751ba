"""The chat template: a conversation in, the text that the model was trained to see out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from martlet.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, object]
"""One turn of a conversation: `role`, `content`, and what the chat template knows besides."""

_REPLY_MARK = "martlet-looks-for-the-end-of-this-turn"


class ChatTemplate:
    """A Jinja chat template, rendered as transformers renders it.

    Args:
        source: The Jinja source.
        tokenizer: Gives the template its special tokens (`bos_token` and the like).
    """

    def __init__(self, source: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.source = source
        self.hash = sha256(source.encode()).hexdigest()[:16]
        self._tokenizer = tokenizer

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Render a conversation.

        Args:
            messages: The turns, oldest first; each needs a `role`, and a `content` that is text
                (an assistant's turn with `tool_calls` may go without).
            add_generation_prompt: Whether to end with the opening of the assistant's next turn.

        Raises:
            TemplateError: If a message is malformed, or the template is broken or refuses.
        """
        from jinja2 import TemplateSyntaxError

        turns = [_checked_turn(message, index) for index, message in enumerate(messages)]
        if not turns:
            raise TemplateError("a conversation needs at least one message; none was given")
        try:
            rendered = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid Jinja, line {error.lineno}: {error.message}"
            ) from error
        except Exception as error:  # a template is foreign code and may raise anything
            raise TemplateError(f"the chat template refuses the messages: {error}") from error
        return str(rendered)

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


def _checked_turn(message: object, index: int) -> dict[str, Any]:
    place = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise TemplateError(
            f"{place} must be a mapping with role and content, not {type(message).__name__}"
        )
    # Absent and null mean the same; templates print a null as "None".
    turn = {str(key): value for key, value in message.items() if value is not None}
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not role:
        raise TemplateError(f"{place} needs a role, such as 'user'; its role is {role!r}")
    if content is None and "tool_calls" not in turn:
        raise TemplateError(f"{place} needs a content; give its text, even if it is empty")
    if content is not None and not isinstance(content, str):
        raise TemplateError(
            f"the content of {place} must be one text, not {type(content).__name__}; "
            "join text parts, and leave out images and sounds"
        )
    return turn
