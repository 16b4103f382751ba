"""Token ids in, one at a time; text out, as soon as no later token can change it."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable, Container, Sequence
from typing import Protocol

from martlet.text.token_bytes import TokenBytes

REPLACEMENT = "\ufffd"
"""Stands for bytes that are not UTF-8, and for a character that has not come in full."""

_new_utf8_decoder = getincrementaldecoder("utf-8")


class IncrementalDecoder(Protocol):
    """Decodes one sequence of tokens. Not thread-safe."""

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that is now certain, often none."""
        ...

    def flush(self) -> str:
        """End the sequence and return the rest; an incomplete character becomes U+FFFD."""
        ...


class ByteDecoder:
    """Decodes where each token's bytes are known; the cost does not grow with the sequence.

    Args:
        token_bytes: The bytes of each token.
        skipped_ids: Tokens that add no text.
    """

    __slots__ = ("_num_spaces_to_strip", "_skipped_ids", "_token_bytes", "_utf8")

    def __init__(self, token_bytes: TokenBytes, *, skipped_ids: Container[int]) -> None:
        self._token_bytes = token_bytes
        self._skipped_ids = skipped_ids
        self._utf8 = _new_utf8_decoder("replace")
        self._num_spaces_to_strip = token_bytes.num_stripped_spaces

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that is now certain."""
        if token_id in self._skipped_ids:
            return ""
        text = self._utf8.decode(self._token_bytes[token_id])
        return self._strip(text) if self._num_spaces_to_strip else text

    def flush(self) -> str:
        """Return U+FFFD if a character is incomplete."""
        return self._utf8.decode(b"", final=True)

    def _strip(self, text: str) -> str:
        while self._num_spaces_to_strip and text:
            if text[0] != " ":
                self._num_spaces_to_strip = 0
                break
            self._num_spaces_to_strip -= 1
            text = text[1:]
        return text


class WindowDecoder:
    """Decodes through any tokenizer: a few tokens are decoded anew with each one that comes.

    The window begins with tokens whose text is out already, since some decoders write a token
    differently at the start of a text. Up to three U+FFFD at the end wait, as they may be the
    first bytes of a character.

    Args:
        decode: The tokenizer's own decoding of a short sequence.
        skipped_ids: Tokens that add no text.
    """

    _NUM_CONTEXT_TOKENS = 8
    _NUM_WINDOW_TOKENS = 16
    _MAX_NUM_WINDOW_TOKENS = 64

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, skipped_ids: Container[int]
    ) -> None:
        self._decode = decode
        self._skipped_ids = skipped_ids
        self._window: list[int] = []
        self._returned = ""  # the part of the window's text that is out

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that is now certain."""
        if token_id in self._skipped_ids:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        if self._returned and text == self._returned:
            # Tokens without text must not crowd out the context. At the start they stay: a token
            # whose space is stripped there keeps the next one from losing its own.
            self._window.pop()
            return ""
        certain = _without_waiting(text)
        # A byte too many can turn the character before it into U+FFFD, until the next byte comes.
        is_in_step = certain.startswith(self._returned)
        new_text = certain[len(self._returned) :] if is_in_step else ""
        self._returned += new_text
        max_num_tokens = self._NUM_WINDOW_TOKENS if is_in_step else self._MAX_NUM_WINDOW_TOKENS
        if len(self._window) >= max_num_tokens:
            self._shorten_window(text)
        return new_text

    def flush(self) -> str:
        """Return what waited for the rest of its character."""
        rest = self._decode(self._window)[len(self._returned) :]
        self._window.clear()
        self._returned = ""
        return rest

    def _shorten_window(self, text: str) -> None:
        context = self._window[-self._NUM_CONTEXT_TOKENS :]
        context_text = self._decode(context)
        # Unlike text means that the cut would go through a character.
        if text.endswith(context_text) or len(self._window) >= self._MAX_NUM_WINDOW_TOKENS:
            self._window = context
            self._returned = _without_waiting(context_text)


def _without_waiting(text: str) -> str:
    num_certain_chars = len(text.rstrip(REPLACEMENT))
    return text[: max(num_certain_chars, len(text) - 3)]
