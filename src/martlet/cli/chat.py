"""`martlet chat`: a conversation in the terminal, or a question through a pipe."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from martlet.cli.options.model import ModelArgument, named_adapters, named_model
from martlet.cli.options.option import option
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.options.sampling import SamplingOptions
from martlet.cli.verb import verb
from martlet.text.conversation import ContextPolicy

if TYPE_CHECKING:
    from martlet.backends.base import Backend
    from martlet.cli.terminal.chat import Chat

_CHAT = "Conversation"


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Who talks, and how the conversation begins."""

    demo: Annotated[bool, option(_CHAT, "Talk to the tiny model that comes along.", "--demo")] = (
        False
    )
    adapters: Annotated[
        list[str] | None,
        option(
            _CHAT,
            "A LoRA adapter as PEFT saves it, un-merged: a name and its folder; the first one "
            "answers until /adapter says otherwise; may be repeated.",
            "--adapter",
            metavar="NAME=DIR",
        ),
    ] = None
    system: Annotated[
        str | None, option(_CHAT, "The system message.", "--system", metavar="TEXT")
    ] = None
    context_policy: Annotated[
        ContextPolicy,
        option(
            _CHAT, "What becomes of a conversation that outgrows the context.", "--context-policy"
        ),
    ] = "drop-old-turns"


@verb
def chat(
    *,
    model: ModelArgument = None,
    conversation: ChatOptions,
    sampling: SamplingOptions,
    runtime: RuntimeOptions,
) -> None:
    """Talk to a model and its adapters, in this process and with no server.

    Try `martlet chat --demo`, and `/help` there. With a question on standard input it
    is a filter: `cat q.txt | martlet chat ./model` writes the reply alone to stdout.
    """
    named = named_model(model, conversation.demo, purpose="to talk to")
    given = _given(sampling)
    adapters = _adapters(conversation.adapters or [])
    question = None if sys.stdin.isatty() else _piped()
    typer.echo(f"loading {named}", err=True)
    backend = runtime.load(named, adapters=adapters)
    _ = backend.tokenizer  # without one, nobody knows what fits the context of a server
    try:
        made = _chat(backend, conversation, list(adapters), given)
        from martlet.cli.terminal.program import converse, filter_question

        if question is None:
            converse(made)
        else:
            filter_question(made, question)
    finally:
        backend.close()


def _given(sampling: SamplingOptions) -> dict[str, object]:
    from martlet.errors import ParameterError

    given = sampling.given_params()
    if given.pop("n", 1) != 1:
        raise ParameterError("--samples is for votes; a chat draws one reply, and /retry another")
    return given


def _adapters(given: list[str]) -> dict[str, str]:
    from martlet.cli.terminal.chat import BASE
    from martlet.errors import ParameterError

    adapters = named_adapters(given)
    if BASE in adapters:
        raise ParameterError(f"{BASE!r} is the model without an adapter; give another name")
    return adapters


def _piped() -> str:
    from martlet.errors import InputError

    try:
        question = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8: {error.reason}") from None
    if not question:
        raise InputError("nothing came on standard input to ask; give a question, or a terminal")
    return question


def _chat(
    backend: "Backend", options: ChatOptions, adapters: Sequence[str], given: dict[str, object]
) -> "Chat":
    from martlet.cli.terminal.chat import Chat
    from martlet.cli.terminal.dialogue import Dialogue
    from martlet.cli.terminal.settings import Settings

    return Chat(
        backend=backend,
        adapters=adapters,
        settings=Settings(given, backend.default_params, policy=options.context_policy),
        dialogue=Dialogue(system=options.system),
        adapter=adapters[0] if adapters else None,
    )
