"""What each token adds to a text, in bytes.

Two families of tokenizers cover almost every open model, and in both a token's bytes do not depend
on its neighbours: byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece with byte fallback
(Llama 2, Gemma, Yuan). A text is then its tokens' bytes in a row, read as UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer

_Step = Mapping[str, object]
"""One step of a tokenizer's decoder, as `tokenizer.json` writes it."""

_BYTE_FALLBACK_STEPS = re.compile(r"(Replace )*ByteFallback( Fuse( Strip)?)?")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes(dict[int, bytes]):
    """Token id to bytes, filled as tokens are met; an id that names no token adds nothing.

    A dictionary, because every token of every request is looked up in it.

    Args:
        id_to_token: The token as the vocabulary spells it, or None.
        token_to_bytes: From the vocabulary's spelling to bytes.
        num_stripped_spaces: How many spaces the tokenizer takes from the start of a text.
    """

    def __init__(
        self,
        id_to_token: Callable[[int], str | None],
        token_to_bytes: Callable[[str], bytes],
        *,
        num_stripped_spaces: int = 0,
    ) -> None:
        super().__init__()
        self.num_stripped_spaces = num_stripped_spaces
        self._id_to_token = id_to_token
        self._token_to_bytes = token_to_bytes

    def __missing__(self, token_id: int) -> bytes:
        token = self._id_to_token(token_id)
        self[token_id] = b"" if token is None else self._token_to_bytes(token)
        return self[token_id]

    @classmethod
    def of_backend(cls, backend: BackendTokenizer) -> TokenBytes | None:
        """Read the family from the tokenizer's decoder; None if it belongs to neither."""
        steps = _decoder_steps(backend)
        names = " ".join(str(step["type"]) for step in steps)
        if names == "ByteLevel":
            return cls(backend.id_to_token, _byte_level_to_bytes)
        if _BYTE_FALLBACK_STEPS.fullmatch(names):
            return cls._of_byte_fallback(backend, steps)
        return None

    @classmethod
    def _of_byte_fallback(
        cls, backend: BackendTokenizer, steps: Sequence[_Step]
    ) -> TokenBytes | None:
        replacements: list[tuple[str, str]] = []
        num_stripped_spaces = 0
        for step in steps:
            match step:
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                    replacements.append((old, new))
                case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                    num_stripped_spaces = start
                case {"type": "ByteFallback" | "Fuse"}:
                    pass
                case _:
                    return None

        def token_to_bytes(token: str) -> bytes:
            for old, new in replacements:
                token = token.replace(old, new)
            byte = _BYTE_TOKEN.fullmatch(token)
            return bytes.fromhex(byte[1]) if byte else token.encode()

        return cls(backend.id_to_token, token_to_bytes, num_stripped_spaces=num_stripped_spaces)


def _decoder_steps(backend: BackendTokenizer) -> list[_Step]:
    if backend.decoder is None:
        return []
    # The pickled state is the decoder's JSON; the whole tokenizer's would take 0.1 s to write.
    decoder = json.loads(backend.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _byte_level_to_bytes(token: str) -> bytes:
    char_to_byte = _char_to_byte()
    try:
        return bytes(char_to_byte[char] for char in token)
    except KeyError:
        # An added token is spelled as it reads, and may hold characters outside the alphabet.
        return token.encode()


@cache
def _char_to_byte() -> Mapping[str, int]:
    """Map the alphabet of byte-level BPE to bytes.

    A printable byte is spelled by the character of the same number; the others, in order, by the
    characters from 256 on.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    printable = {char: ord(char) for char in alphabet if ord(char) < 256}
    shifted = (char for char in alphabet if ord(char) >= 256)
    unprintable = (byte for byte in range(256) if byte not in printable.values())
    return printable | dict(zip(shifted, unprintable, strict=True))
