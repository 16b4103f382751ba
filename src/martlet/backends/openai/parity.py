"""Whether a server reads words as the tokenizer here does: compared by token ids, before a run."""

from collections.abc import Mapping

from martlet.backends.openai.rendering import RendersThere
from martlet.backends.openai.server import Server
from martlet.errors import InputError, TemplateError
from martlet.text.messages import Message
from martlet.text.tokenizer import Tokenizer

_TEXT = "Anna has 3 apples;\n\n  小明有12个。 Wie viele? \U0001f34e"
_CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": _TEXT},),
    (
        {"role": "system", "content": "Answer with one letter."},
        {"role": "user", "content": " A or B? "},
    ),
    (
        {"role": "user", "content": "1 + 1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2 + 2?"},
    ),
)


def check_parity(
    tokenizer: Tokenizer, there: RendersThere, server: Server, *, has_own_template: bool
) -> None:
    """Compares token ids of a text and of conversations, here and there.

    Args:
        tokenizer: Ours.
        there: Asks the server.
        server: For messages.
        has_own_template: Whether the user replaced the chat template here, so that conversations
            are meant to differ.

    Raises:
        TemplateError: At the first difference; it names the token where it begins.
    """
    own = tokenizer.encode(_TEXT, add_special_tokens=True)
    _check_same(tokenizer, own, there.tokenize({"prompt": _TEXT}), server, what="a text")
    if has_own_template or not tokenizer.has_template:
        return
    for messages in _CONVERSATIONS:
        try:
            _, own = tokenizer.render(messages)
        except TemplateError:
            continue  # some templates know no system message
        theirs = _conversation(messages, there, server)
        _check_same(tokenizer, own, theirs, server, what="a conversation")


def _conversation(
    messages: tuple[Message, ...], there: RendersThere, server: Server
) -> tuple[int, ...]:
    body: Mapping[str, object] = {"messages": list(messages)}
    try:
        return there.tokenize(dict(body))
    except InputError as error:
        raise TemplateError(
            f"{server.described} refuses a conversation that the chat template here renders: "
            f"{error}; start it with the same --chat-template"
        ) from error


def _check_same(
    tokenizer: Tokenizer,
    own: tuple[int, ...],
    theirs: tuple[int, ...],
    server: Server,
    *,
    what: str,
) -> None:
    if own == theirs:
        return
    pairs = zip(own, theirs, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(theirs)))
    raise TemplateError(
        f"{server.described} reads {what} differently from the tokenizer in {tokenizer.folder}: "
        f"{len(theirs)} tokens and {len(own)}, and token {place} is {_token(theirs, place)} there "
        f"and {_token(own, place)} here; it must have this model's tokenizer and chat template"
    )


def _token(token_ids: tuple[int, ...], place: int) -> str:
    return str(token_ids[place]) if place < len(token_ids) else "none"
