"""A tokenizer of the Rust library, under the names that transformers has for its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer


class PlainTokenizer:
    """Does what the engine asks of a tokenizer of transformers, and needs nothing of it.

    Args:
        backend: The tokenizer.
        special_tokens_map: Tokens by what they are for, such as `eos_token`.
        chat_template: Jinja source.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        special_tokens_map: Mapping[str, str],
        chat_template: str | None,
    ) -> None:
        self.backend_tokenizer = backend
        self.special_tokens_map = dict(special_tokens_map)
        self.chat_template = chat_template

    @property
    def bos_token_id(self) -> int | None:
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._named_id("eos_token")

    @property
    def all_special_ids(self) -> list[int]:
        """The tokens that are there for something."""
        ids = map(self.convert_tokens_to_ids, self.special_tokens_map.values())
        return [token_id for token_id in ids if token_id is not None]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found in a text before it is cut, by id."""
        added: dict[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return added

    def get_vocab(self) -> dict[str, int]:
        """All tokens."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab()
        return vocabulary

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """None if there is no such token."""
        token_id: int | None = self.backend_tokenizer.token_to_id(token)
        return token_id

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str | None]:
        """The tokens as the vocabulary spells them; None for an id that names none."""
        return [self.backend_tokenizer.id_to_token(token_id) for token_id in token_ids]

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        verbose: bool = True,  # noqa: ARG002 -- transformers warns of long texts
    ) -> list[int]:
        """The ids of a text, framed by the post-processor's tokens if those are wanted."""
        encoded = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.ids
        return ids

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        clean_up_tokenization_spaces: bool = False,  # noqa: ARG002 -- not done to byte pairs
    ) -> str:
        """The text of ids, special tokens included."""
        text: str = self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        chat_template: str,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,  # noqa: ARG002 -- the text is all that is asked for
        **variables: object,
    ) -> str:
        """The text of a conversation; see `render_chat`."""
        from martlet.text.sandbox import render_chat

        return render_chat(
            chat_template,
            conversation,
            {
                **self.special_tokens_map,
                "tools": tools,
                "documents": documents,
                "add_generation_prompt": add_generation_prompt,
                **variables,
            },
        )

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.convert_tokens_to_ids(token)
