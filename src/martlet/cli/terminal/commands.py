"""The slash commands: what each takes and does."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from martlet.backends.base import Prompt
from martlet.cli.terminal.chat import BASE, Chat
from martlet.cli.terminal.dialogue import Dialogue
from martlet.cli.terminal.names import unknown
from martlet.cli.terminal.rows import append_row, read_row
from martlet.cli.terminal.settings import NAMES
from martlet.cli.terminal.telling import MAX_BAR_WIDTH, bar_of_context, counted
from martlet.errors import InputError, ParameterError
from martlet.text.conversation import ContextUse
from martlet.text.turns import Turns

NONE = "-"
"""Takes something away."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A slash command."""

    takes: str
    """Its argument, as the help shows it; empty for none."""
    explanation: str
    run: Callable[[Chat, str], None]
    """Gets the chat, and all that stands behind the command's name."""
    choices: Callable[[Chat], Sequence[str]] = lambda _: ()
    """What its argument may begin with."""


def run_command(chat: Chat, line: str) -> None:
    """Does what a line says that begins with a slash.

    Raises:
        ParameterError: If there is no such command, or its argument is wrong.
        MartletError: As the command does.
    """
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        raise ParameterError(unknown(name, list(COMMANDS), what="command"))
    command = COMMANDS[name]
    if argument.strip() and not command.takes:
        raise ParameterError(f"{name} takes nothing behind it, not {argument.strip()}")
    command.run(chat, argument.strip())


def completions(chat: Chat, before: str) -> Sequence[str]:
    """What the next word of a line may be.

    Args:
        before: The line up to that word.
    """
    words = before.split()
    if not words:
        return list(COMMANDS)
    command = COMMANDS.get(words[0])
    return command.choices(chat) if command is not None and len(words) == 1 else ()


def _help(chat: Chat, _argument: str) -> None:
    rows = [
        (f"{name} {command.takes}".rstrip(), command.explanation)
        for name, command in COMMANDS.items()
    ]
    chat.talk.print(_table(rows), markup=False)
    chat.talk.print(
        "\nSeveral lines: end a line with a backslash or Alt-Enter, or begin with three quotes and "
        "end with three. A line that begins with a space is a question, whatever follows.\n"
        "Ctrl-C stops a reply; twice at the prompt, or Ctrl-D, leaves.",
        markup=False,
    )


def _system(chat: Chat, text: str) -> None:
    if text:
        system = None if text == NONE else text
        chat.check_template(system)
        chat.dialogue.system = system
    chat.talk.print(f"system: {chat.dialogue.system or 'none'}", markup=False)


def _set(chat: Chat, argument: str) -> None:
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    if name and not value.strip():
        raise ParameterError(f"/set {name} needs a value; `default` takes a change back")
    if name:
        chat.settings.set(name, value.strip())
    rows = [row for row in chat.settings.rows() if not name or row[0] == name]
    chat.talk.print(_table(rows), markup=False)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    """Rows without lines around them; on a narrow terminal they are wrapped and not cut."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _adapter(chat: Chat, name: str) -> None:
    if name:
        chat.choose(name)
    chat.talk.print(f"{chat.adapter or BASE} answers; there are {', '.join(chat.voices)}")


def _compare(chat: Chat, question: str) -> None:
    chat.compare(question or None)


def _retry(chat: Chat, _argument: str) -> None:
    chat.ask(chat.asked_last(), again=True)


def _edit(chat: Chat, _argument: str) -> None:
    question = chat.asked_last()
    if chat.edited is None:
        raise InputError("nobody is there to edit it; ask again in other words")
    if changed := chat.edited(question).strip():
        chat.ask(changed, again=True)


def _save(chat: Chat, argument: str) -> None:
    (path,) = _words(argument, "/save FILE", least=1, most=1)
    if not chat.dialogue.turns:
        raise InputError("there is nothing to save yet")
    number = append_row(Path(path).expanduser(), chat.dialogue.messages)
    chat.talk.print(f"saved as line {number} of {path}", markup=False)


def _load(chat: Chat, argument: str) -> None:
    path, *lines = _words(argument, "/load FILE [LINE]", least=1, most=2)
    if lines and not lines[0].isdecimal():
        raise ParameterError(f"/load FILE [LINE] takes the number of a line, not {lines[0]}")
    number, messages = read_row(Path(path).expanduser(), int(lines[0]) if lines else None)
    chat.load(Dialogue.of(messages))
    num_messages = counted(len(messages), "message")
    chat.talk.print(f"line {number} of {path}: {num_messages}", markup=False)


def _tokens(chat: Chat, _argument: str) -> None:
    dialogue, settings = chat.dialogue, chat.settings
    system = dialogue.system or ""
    num_system = len(chat.backend.render(Prompt(text=system)).token_ids) if system else 0
    if dialogue.turns:
        use = chat.speaker.fit(
            dialogue.messages, max_tokens=settings.params.max_tokens, policy=settings.policy
        ).use
    else:
        use = ContextUse(
            policy=settings.policy,
            max_context_tokens=chat.backend.limits.max_context_tokens,
            num_prompt_tokens=num_system,
        )
    num_turns = Turns.of(dialogue.turns).last + 1 if dialogue.turns else 0
    width = max(8, min(MAX_BAR_WIDTH, chat.talk.width - 24))  # what follows it has its place
    bar = bar_of_context(use, num_system_tokens=num_system, num_turns=num_turns, width=width)
    chat.talk.print(bar)


def _new(chat: Chat, _argument: str) -> None:
    chat.dialogue = Dialogue(system=chat.dialogue.system)
    chat.talk.print("a new conversation; the system message stays")


def _quit(_chat: Chat, _argument: str) -> None:
    raise EOFError


def _words(argument: str, usage: str, *, least: int, most: int) -> list[str]:
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise ParameterError(f"{usage}: {error}") from None
    if not least <= len(words) <= most:
        raise ParameterError(f"it is {usage}; quote a name with spaces")
    return words


COMMANDS: Mapping[str, Command] = {
    "/help": Command(takes="", explanation="Shows this.", run=_help),
    "/system": Command(
        takes="[TEXT]", explanation="Shows or sets the system message; - removes it.", run=_system
    ),
    "/set": Command(
        takes="[NAME VALUE]",
        explanation="Shows all settings, or changes one; `default` takes a change back.",
        run=_set,
        choices=lambda _: NAMES,
    ),
    "/adapter": Command(
        takes="[NAME]",
        explanation="Shows or chooses who answers; base is the model itself.",
        run=_adapter,
        choices=lambda chat: chat.voices,
    ),
    "/compare": Command(
        takes="[QUESTION]",
        explanation="Base and adapters side by side, same seed; nothing of it is kept.",
        run=_compare,
    ),
    "/retry": Command(takes="", explanation="Draws another reply to the question.", run=_retry),
    "/edit": Command(
        takes="", explanation="Changes the last question and asks it again.", run=_edit
    ),
    "/save": Command(
        takes="FILE", explanation="Adds the conversation to a file of training rows.", run=_save
    ),
    "/load": Command(
        takes="FILE [LINE]",
        explanation="Goes on with a conversation of such a file, the last one unless told.",
        run=_load,
    ),
    "/tokens": Command(takes="", explanation="Shows what fills the context.", run=_tokens),
    "/new": Command(takes="", explanation="Starts over.", run=_new),
    "/quit": Command(takes="", explanation="Leaves.", run=_quit),
}
