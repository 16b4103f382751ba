"""The two ways to run a chat: a person at a terminal, or a pipe."""

from martlet.backends.base import Backend
from martlet.cli.terminal.chat import BASE, Chat
from martlet.cli.terminal.commands import completions, run_command
from martlet.cli.terminal.reading import Reader, history_path
from martlet.errors import Interrupted, MartletError


def converse(chat: Chat) -> None:
    """Answers a person until they leave.

    Raises:
        TemplateError: If the model's chat template cannot be used.
        ResourceError: If the history cannot be kept.
    """
    chat.check_template(chat.dialogue.system)
    reader = Reader(history_path(), lambda before: completions(chat, before))
    chat.edited = lambda text: reader.edit(f"{chat.adapter or BASE}> ", text)
    chat.talk.print(_welcome(chat.backend), markup=False)
    was_interrupted = False
    while True:
        try:
            line = reader.read(f"{chat.adapter or BASE}> ")
            _obey(chat, line)
            was_interrupted = False
        except EOFError:
            return
        except KeyboardInterrupt:
            chat.talk.print()
            if was_interrupted:
                return
            was_interrupted = True
            chat.talk.print("[dim]Ctrl-C again, or Ctrl-D, leaves[/]")


def filter_question(chat: Chat, question: str) -> None:
    """Writes the reply to a question, and nothing else, to stdout.

    Raises:
        Interrupted: If Ctrl-C stopped it; what was drawn by then is there.
        MartletError: As `Chat.ask`.
    """
    if chat.ask(question).ending == "stopped":
        raise Interrupted("stopped; the reply is not whole")


def _obey(chat: Chat, line: str) -> None:
    if not line.strip():
        return
    try:
        if line.startswith("/"):
            run_command(chat, line)
        else:
            chat.ask(line.strip())
    except MartletError as error:
        chat.talk.print(f"{error}", style="red", markup=False)


def _welcome(backend: Backend) -> str:
    identity = backend.identity
    facts = [identity.model, identity.backend, identity.dtype]
    facts.append(f"context {backend.limits.max_context_tokens:,} tokens")
    return f"{', '.join(facts)}; /help shows what can be said, Ctrl-D leaves"
