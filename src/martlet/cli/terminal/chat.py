"""A chat under way: who answers, what was said, how replies are drawn and shown."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from martlet.backends.base import Backend, Prompt
from martlet.backends.seeds import given_seed
from martlet.cli.terminal.comparison import comparison_shown
from martlet.cli.terminal.dialogue import Dialogue
from martlet.cli.terminal.display import reply_shown
from martlet.cli.terminal.interrupt import reply_stoppable
from martlet.cli.terminal.names import unknown
from martlet.cli.terminal.settings import Settings
from martlet.cli.terminal.speaker import Reply, Speaker, Voice
from martlet.cli.terminal.telling import line_of_reply
from martlet.errors import InputError, ParameterError

BASE = "base"
"""What the model without an adapter is called."""


@dataclass(kw_only=True)
class Chat:
    """One person talking to one model and its adapters."""

    backend: Backend
    adapters: Sequence[str]
    settings: Settings
    dialogue: Dialogue = field(default_factory=Dialogue)
    adapter: str | None = None
    """Who answers; None for the base."""
    edited: Callable[[str], str] | None = None
    """Lets the person change a text; None if there is none to do so."""
    out: Console = field(default_factory=lambda: Console(highlight=False))
    """Replies, and nothing else."""
    talk: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    """All that is said besides."""

    def __post_init__(self) -> None:
        self.speaker = Speaker(self.backend)
        self._num_tries = 0
        """Of the last question, to draw another reply to it."""

    @property
    def voices(self) -> Sequence[str]:
        """The names of all who can answer."""
        return [BASE, *self.adapters]

    def choose(self, name: str) -> None:
        """Lets another one answer from now on.

        Raises:
            ParameterError: If there is none of that name.
        """
        if name not in self.voices:
            raise ParameterError(unknown(name, self.voices, what="adapter"))
        self.adapter = None if name == BASE else name

    def check_template(self, system: str | None) -> None:
        """Tries the chat template, before anybody waits for a reply.

        Raises:
            TemplateError: If there is none, or it refuses a conversation with this system message.
        """
        trial = Dialogue(system=system).asking("Hello")
        self.backend.render(Prompt(messages=trial))

    def ask(self, question: str, *, again: bool = False) -> Reply:
        """Shows the reply to a question; what was said by Ctrl-C counts as the reply.

        Args:
            again: Whether the question takes the place of the last one.

        Raises:
            MartletError: If it cannot be asked or answered; the dialogue is as before.
        """
        is_same = again and question == self.dialogue.last_question
        self._num_tries = self._num_tries + 1 if is_same else 0
        fitted = self.speaker.fit(
            self.dialogue.asking(question, again=again),
            max_tokens=self.settings.params.max_tokens,
            policy=self.settings.policy,
        )
        voice = Voice(adapter=self.adapter, seed=self._seed(self._num_tries))
        with reply_stoppable() as stop_requested, reply_shown(self.out) as display:
            (reply,) = self.speaker.speak(
                fitted,
                [voice],
                self.settings.params,
                show=lambda _, text: display.push(text),
                stop_requested=stop_requested,
            )
        if reply.text or reply.ending != "stopped":
            self.dialogue.answer(question, reply.text, again=again)
        self.talk.print(line_of_reply(reply), soft_wrap=not self.talk.is_terminal)
        return reply

    def compare(self, question: str | None) -> None:
        """Shows what the base and each adapter reply, with the same draws; none of it is kept.

        Args:
            question: What to ask; None asks the last question again.

        Raises:
            InputError: If there is nobody to compare with, or nothing to ask.
            MartletError: As `ask`.
        """
        if not self.adapters:
            raise InputError("there is no adapter to compare with; start with --adapter NAME=DIR")
        again = question is None
        asked = question or self.asked_last()
        fitted = self.speaker.fit(
            self.dialogue.asking(asked, again=again),
            max_tokens=self.settings.params.max_tokens,
            policy=self.settings.policy,
        )
        seed = self._seed(0)
        voices = [Voice(adapter=name, seed=seed) for name in (None, *self.adapters)]
        with reply_stoppable() as stop, comparison_shown(self.out, self.voices) as show:
            replies = self.speaker.speak(
                fitted, voices, self.settings.params, show=show, stop_requested=stop
            )
        for name, reply in zip(self.voices, replies, strict=True):
            line = Text.assemble((f"{name}: ", "dim"), line_of_reply(reply))
            self.talk.print(line, soft_wrap=not self.talk.is_terminal)

    def asked_last(self) -> str:
        """The last question.

        Raises:
            InputError: If nothing was asked yet.
        """
        question = self.dialogue.last_question
        if question is None:
            raise InputError("nothing was asked yet")
        return question

    def load(self, dialogue: Dialogue) -> None:
        """Goes on with another conversation.

        Raises:
            TemplateError: If the chat template refuses it; the dialogue is as before.
        """
        if dialogue.messages:
            self.backend.render(Prompt(messages=dialogue.messages))
        self.dialogue = dialogue

    def _seed(self, index: int) -> int:
        """The seed of a question's sample `index`: of the seed that was set, or a fresh one."""
        seed = self.settings.params.seed
        return secrets.randbits(64) if seed is None else given_seed(seed, index)
