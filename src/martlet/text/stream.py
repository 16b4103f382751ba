"""The text of one reply, while its tokens are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from martlet.text.stop_strings import StopScanner
from martlet.text.tokenizer import Tokenizer


class StreamDecoder:
    """Turns one reply's tokens into text that is never taken back.

    Never returned early: half a character, or what may be the beginning of a stop string. All
    returned pieces joined are `tokenizer.decode(reply_ids)`, cut before the stop string if there
    is one. The reply is decoded on its own, not as the prompt's continuation: a tokenizer that
    takes the space from the start of a text takes it from the start of the reply.

    Not thread-safe: one decoder a reply.

    Args:
        tokenizer: The model's tokenizer.
        stop: Strings that end the reply and are not part of it. They may span tokens, and begin or
            end inside one. Of several, the one that is complete first counts, then the longest.
        skip_special_tokens: Whether special tokens are left out of the text.
        min_tokens: A stop string that is complete before this many tokens is ordinary text.

    Raises:
        ParameterError: If a stop string is empty.
    """

    __slots__ = ("_decoder", "_min_tokens", "_num_tokens", "_pieces", "_scanner")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        self._decoder = tokenizer.new_decoder(skip_special_tokens=skip_special_tokens)
        self._scanner = StopScanner(stop) if stop else None
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._pieces: list[str] = []

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the reply, if one did."""
        return self._scanner.stop_string if self._scanner else None

    @property
    def text(self) -> str:
        """All text returned so far."""
        return "".join(self._pieces)

    def push(self, token_id: int) -> str:
        """Take the next token and return the text that is now certain, often none.

        After a stop string nothing more is text: every later call returns none.
        """
        self._num_tokens += 1
        return self._scan(self._decoder.push(token_id))

    def flush(self) -> str:
        """End the reply and return what was held back; an incomplete character becomes U+FFFD."""
        rest = self._scan(self._decoder.flush())
        if self._scanner is None:
            return rest
        held = self._scanner.flush()
        self._pieces.append(held)
        return rest + held

    def _scan(self, text: str) -> str:
        if not text:
            return ""
        if self._scanner is not None:
            if self._scanner.stop_string is not None:
                return ""
            text = self._scanner.push(text, may_stop=self._num_tokens >= self._min_tokens)
        self._pieces.append(text)
        return text
