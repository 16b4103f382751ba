"""A backend without a model whose replies state a letter, mostly A."""

from dataclasses import replace

from batch.echo_backend import EchoBackend
from martlet.backends.base import SampleOutput

LETTERS = "AAAAAABBC?"
"""What a reply states, by the last digit of its first token; ? states nothing."""


class AnsweringBackend(EchoBackend):
    """Draws as the echo does, and puts a letter in place of its tokens."""

    def poll(self) -> list[SampleOutput]:
        return [replace(output, text=_reply(output)) for output in super().poll()]


def _reply(output: SampleOutput) -> str:
    if not output.token_ids:
        return output.text
    letter = LETTERS[output.token_ids[0] % len(LETTERS)]
    return "I cannot tell." if letter == "?" else f"It follows.\nThe answer is {letter}."
