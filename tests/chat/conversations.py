"""Conversations whose every message can be found again in a rendered prompt."""

from collections.abc import Sequence

from martlet.text.messages import Message

SYSTEM = "You answer puzzles."


def turn(number: int, *, words: int = 3) -> list[Message]:
    """A question and its answer, both with the turn's own number in them."""
    return [
        {"role": "user", "content": f"Question <{number}>." + " More." * words},
        {"role": "assistant", "content": f"Answer ({number})."},
    ]


def conversation(num_turns: int, *, words: int = 3) -> list[Message]:
    """A system message, `num_turns` answered turns, and a last question, number `num_turns`."""
    answered = [message for number in range(num_turns) for message in turn(number, words=words)]
    return [{"role": "system", "content": SYSTEM}, *answered, turn(num_turns)[0]]


def visible_turns(text: str, num_turns: int) -> Sequence[int]:
    """The turns whose question or answer a prompt shows."""
    return [n for n in range(num_turns) if f"<{n}>" in text or f"({n})" in text]
