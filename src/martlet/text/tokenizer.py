"""A model's tokenizer: text and conversations to ids, ids to text, and the ids that end a reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from martlet.errors import MissingExtraError, ModelError, NotFoundError, TemplateError
from martlet.text.incremental import REPLACEMENT, ByteDecoder, IncrementalDecoder, WindowDecoder
from martlet.text.inner import InnerTokenizer, load_inner
from martlet.text.messages import Message
from martlet.text.plain import PlainTokenizer
from martlet.text.stop_ids import gather_stop_ids
from martlet.text.template import ChatTemplate
from martlet.text.token_bytes import TokenBytes
from martlet.text.tool_calls.detect import detect
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.functions import Tool

if TYPE_CHECKING:
    from tokenizers import Tokenizer as BackendTokenizer


class Tokenizer:
    """Wraps the tokenizer that a folder holds, which stays unchanged.

    Args:
        inner: The tokenizer of transformers, or what takes its place.
        folder: The model's folder: its configuration names end tokens, and messages name it.
        chat_template: Jinja source that takes the place of the tokenizer's own template.

    Raises:
        ModelError: If the tokenizer has no vocabulary, or a configuration file cannot be read.
    """

    folder: Path
    bos_id: int | None
    """The token that begins a text, for models that have one."""
    eos_id: int | None
    """The token that ends a text."""
    num_tokens: int
    """The highest token id plus one, added tokens included."""
    stop_id_sources: Mapping[int, tuple[str, ...]]
    """Each token that ends a reply, and where it is named."""
    tool_calls: ToolCallFormat | None
    """How the model writes tool calls, by its chat template; None if that knows none."""

    def __init__(
        self, inner: InnerTokenizer, *, folder: Path, chat_template: str | None = None
    ) -> None:
        self.folder = folder
        self._inner = inner
        self._backend = _backend_of(inner)
        added_tokens = inner.added_tokens_decoder
        vocabulary = inner.get_vocab()
        if len(vocabulary) <= len(added_tokens):
            raise ModelError(
                f"the tokenizer in {folder} has no vocabulary; add its files, such as "
                "tokenizer.json, tokenizer.model or vocab.json with merges.txt"
            )
        self.num_tokens = max(vocabulary.values()) + 1
        self.bos_id = inner.bos_token_id
        self.eos_id = inner.eos_token_id
        self._special_ids = frozenset(
            token_id for token_id, token in added_tokens.items() if token.special
        ).union(inner.all_special_ids)
        self._token_bytes = None if self._backend is None else TokenBytes.of_backend(self._backend)
        self._leading_ids = _find_leading_ids(inner)
        source, tool_source = (
            _named_templates(inner) if chat_template is None else (chat_template, None)
        )
        self._template = ChatTemplate(source, inner, tool_source=tool_source) if source else None
        self.tool_calls = detect(tool_source or source or "", self._special_tokens())
        # The marks of tool calls stay in the text: what stands behind one is not the same without.
        self._skippable_ids = self._special_ids - (
            self.tool_calls.mark_ids if self.tool_calls else frozenset()
        )
        self.stop_id_sources = gather_stop_ids(
            folder,
            tokenizer_eos_id=inner.eos_token_id,
            end_of_turn_id=self._find_end_of_turn_id(),
        )

    @classmethod
    def load(
        cls, folder: Path, *, trust_remote_code: bool = False, chat_template: str | None = None
    ) -> Tokenizer:
        """Load the tokenizer from a model's folder; nothing is downloaded.

        Args:
            folder: The model's folder.
            trust_remote_code: Whether Python code in the folder may run.
            chat_template: Jinja source that takes the place of the folder's template.

        Raises:
            NotFoundError: If there is no such folder.
            MissingExtraError: If the tokenizer needs SentencePiece and it is not installed.
            ModelError: If the tokenizer's files are missing or cannot be read.
        """
        if not folder.is_dir():
            raise NotFoundError(f"no folder {folder}; name the folder that holds the model")
        try:
            inner = load_inner(folder, trust_remote_code=trust_remote_code)
        except Exception as error:  # each kind of tokenizer has its own ways to fail
            if _lacks_sentencepiece(folder):
                raise MissingExtraError(
                    f"the tokenizer in {folder}", extra="sentencepiece"
                ) from error
            raise ModelError(
                f"cannot load a tokenizer from {folder}: {error}; check that the tokenizer's files "
                "are there, such as tokenizer.json, or tokenizer.model with tokenizer_config.json"
            ) from error
        return cls(inner, folder=folder, chat_template=chat_template)

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Turn text into ids; special tokens written out in it count as such.

        Args:
            text: The text.
            add_special_tokens: Whether to put in front what the tokenizer puts there, mostly the
                BOS token, unless the text begins with it. An end token is never added: a prompt
                that says it is over asks for nothing.

        Returns:
            The ids, never with two BOS tokens in front.
        """
        token_ids = tuple(self._inner.encode(text, add_special_tokens=False, verbose=False))
        if add_special_tokens and token_ids[:1] != self._leading_ids[:1]:
            token_ids = self._leading_ids + token_ids
        return self._without_second_bos(token_ids)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Tool] = (),
        variables: Mapping[str, object] | None = None,
    ) -> tuple[str, tuple[int, ...]]:
        """Apply the chat template to a conversation.

        Args:
            messages: The turns, oldest first.
            add_generation_prompt: Whether to end with the opening of the assistant's next turn.
            tools: Functions that the model may call, as OpenAI declares them.
            variables: What else the template looks at, such as `enable_thinking`.

        Returns:
            The text and its ids; a BOS token is there only if the template writes one.

        Raises:
            TemplateError: If there is no template, it is broken, refuses the messages, ignores the
                tools or a variable, or a message is malformed.
            ParameterError: If a tool is malformed.
        """
        if self._template is None:
            raise TemplateError(
                f"no chat template in {self.folder}; add chat_template.jinja there, pass "
                "--chat-template FILE, or send raw text with --raw"
            )
        text = self._template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
        )
        return text, self.encode(text, add_special_tokens=False)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Turn ids into text, as the model wrote it: spaces before punctuation stay.

        Bytes that are not UTF-8 become U+FFFD. Of a run of byte tokens only the bad bytes do,
        where transformers gives up the whole run.
        """
        skipped_ids = self._skipped_ids(skip_special_tokens)
        if self._token_bytes is None:
            return self._decode_inner([item for item in token_ids if item not in skipped_ids])
        decoder = ByteDecoder(self._token_bytes, skipped_ids=skipped_ids)
        return "".join(map(decoder.push, token_ids)) + decoder.flush()

    def token_bytes(self, token_id: int) -> bytes:
        """What one token by itself adds to a text; half a character is possible."""
        if self._token_bytes is None:
            return self._decode_inner([token_id]).encode()
        return self._token_bytes[token_id]

    def new_decoder(self, *, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """Start to decode a sequence token by token."""
        skipped_ids = self._skipped_ids(skip_special_tokens)
        if self._token_bytes is None:
            return WindowDecoder(self._decode_inner, skipped_ids=skipped_ids)
        return ByteDecoder(self._token_bytes, skipped_ids=skipped_ids)

    def to_backend_json(self) -> str | None:
        """The tokenizer's rules as `tokenizer.json` writes them; None if others cannot read them.

        That is so for a tokenizer written in Python, and for one of an uncommon family.
        """
        if self._backend is None or self._token_bytes is None:
            return None
        return self._backend.to_str()

    def read_vocabulary(self) -> tuple[list[bytes], list[int]]:
        """What each token adds behind other words, in bytes, by decoding all of them.

        Returns:
            One entry an id, empty for a token that adds nothing or only part of a character; and
            the ids of the special tokens.
        """
        anchor = self._inner.encode("a", add_special_tokens=False)[-1]
        before = self._decode_inner([anchor])
        texts = [self._decode_inner([anchor, token_id]) for token_id in range(self.num_tokens)]
        added = [text.removeprefix(before) if text.startswith(before) else "" for text in texts]
        tokens = [b"" if REPLACEMENT in text else text.encode() for text in added]
        return tokens, sorted(self._special_ids)

    def check_against_embedding(self, num_embeddings: int) -> None:
        """Refuse a tokenizer whose ids the model has no rows for.

        Args:
            num_embeddings: Rows of the model's embedding.

        Raises:
            ModelError: If an id of the tokenizer is not below `num_embeddings`.
        """
        if self.num_tokens <= num_embeddings:
            return
        vocabulary = self._inner.get_vocab()
        token_id, token = min(
            (token_id, token)
            for token, token_id in vocabulary.items()
            if token_id >= num_embeddings
        )
        raise ModelError(
            f"the tokenizer in {self.folder} has ids up to {self.num_tokens - 1}, but the model's "
            f"embedding has {num_embeddings} rows; the first token without a row is {token!r} "
            f"({token_id}). Use the tokenizer that the model was trained with, or resize the "
            "model's embedding and train it"
        )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply, in ascending order."""
        return tuple(self.stop_id_sources)

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered."""
        return self._template is not None

    @property
    def template(self) -> str | None:
        """The Jinja source of the chat template."""
        return None if self._template is None else self._template.source

    @property
    def template_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the template; empty if there is none."""
        return "" if self._template is None else self._template.hash

    @cached_property
    def tokenizer_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the vocabulary, rules or special tokens."""
        rules = (
            sorted(self._inner.get_vocab().items())
            if self._backend is None
            else self._backend.to_str()
        )
        special_tokens = sorted(
            (name, str(token)) for name, token in self._inner.special_tokens_map.items()
        )
        return sha256(json.dumps([rules, special_tokens]).encode()).hexdigest()[:16]

    def _skipped_ids(self, skip_special_tokens: bool) -> frozenset[int]:
        return self._skippable_ids if skip_special_tokens else frozenset()

    def _special_tokens(self) -> dict[str, int]:
        ids = sorted(self._special_ids)
        tokens = self._inner.convert_ids_to_tokens(ids)
        return {token: i for token, i in zip(tokens, ids, strict=True) if token is not None}

    def _decode_inner(self, token_ids: Sequence[int]) -> str:
        return str(self._inner.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def _without_second_bos(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        while self.bos_id is not None and token_ids[:2] == (self.bos_id, self.bos_id):
            token_ids = token_ids[1:]
        return token_ids

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The special tokens, as they are written out."""
        return tuple(self._special_tokens())

    @cached_property
    def end_of_turn(self) -> str | None:
        """The token that the chat template puts behind an assistant's words, as text."""
        if self._template is None:
            return None
        tokens = self._inner.added_tokens_decoder.values()
        return self._template.find_end_of_turn(token.content for token in tokens)

    def _find_end_of_turn_id(self) -> int | None:
        token = self.end_of_turn
        if token is None:
            return None
        found = self._inner.added_tokens_decoder.items()
        return next(token_id for token_id, added in found if added.content == token)


def _backend_of(inner: InnerTokenizer) -> BackendTokenizer | None:
    """Give the Rust tokenizer inside; those written in Python have none."""
    if isinstance(inner, PlainTokenizer):
        return inner.backend_tokenizer
    from transformers import PreTrainedTokenizerFast

    return inner.backend_tokenizer if isinstance(inner, PreTrainedTokenizerFast) else None


def _find_leading_ids(inner: InnerTokenizer) -> tuple[int, ...]:
    plain = inner.encode("a", add_special_tokens=False)
    framed = inner.encode("a", add_special_tokens=True)
    for start in range(len(framed)):
        if framed[start : start + len(plain)] == plain:
            return tuple(framed[:start])
    return ()


def _named_templates(inner: InnerTokenizer) -> tuple[str | None, str | None]:
    """The template of ordinary conversations, and the one for tools where a folder holds both."""
    template = inner.chat_template
    if isinstance(template, dict):
        return template.get("default"), template.get("tool_use")
    return template, None


def _lacks_sentencepiece(folder: Path) -> bool:
    if (folder / "tokenizer.json").is_file() or not any(folder.glob("*.model")):
        return False
    try:
        return any(find_spec(name) is None for name in ("sentencepiece", "google.protobuf"))
    except ModuleNotFoundError:  # the package `google` itself is absent
        return True
