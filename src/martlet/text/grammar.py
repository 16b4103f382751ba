"""Grammars over a model's tokens: which of them may come next in a reply that has a form.

llguidance does the work: it walks the vocabulary's trie beside a parser, so a mask costs
microseconds whatever the schema. This module gives it the vocabulary and words its refusals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from martlet.errors import MissingExtraError, ParameterError
from martlet.text.lark import quoted_options, with_whitespace
from martlet.text.structured import StructuredOutput

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    from martlet.text.tokenizer import Tokenizer

MAX_NUM_GRAMMARS = 128
"""Compiled grammars that are kept, the least recently used going first."""


class GrammarCompiler:
    """Compiles the forms of replies for one model. May be used from several threads.

    Args:
        tokenizer: The model's tokenizer.
        vocab_size: Columns of the model's logits; those that are no token are never allowed.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._compile_cached = lru_cache(maxsize=MAX_NUM_GRAMMARS)(self._compile)

    def compile(self, structured: StructuredOutput) -> Grammar:
        """Compiles a form, or finds it again.

        Raises:
            ParameterError: If the schema, expression or grammar is not valid or not supported.
            MissingExtraError: If llguidance is not installed.
        """
        _check_installed()
        source = _to_source(structured)
        return self._compile_cached(source)

    def _compile(self, source: str) -> Grammar:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._vocabulary, source, log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return Grammar(matcher)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        """llguidance's view of the tokenizer; building it takes about a second."""
        from llguidance import LLTokenizer

        end_ids = [token_id for token_id in self._tokenizer.stop_ids if token_id < self._vocab_size]
        known = self._tokenizer.to_backend_json()
        source = self._token_table() if known is None else known
        return LLTokenizer(source, n_vocab=self._vocab_size, eos_token=end_ids or None)

    def _token_table(self) -> TokenizerWrapper:
        from llguidance import TokenizerWrapper

        tokens, special_ids = self._tokenizer.read_vocabulary()
        num_columns_left = self._vocab_size - len(tokens)
        table = _TokenTable(
            tokens=[*tokens, *num_columns_left * [b""]],
            special_token_ids=special_ids,
            eos_token_id=next(iter(self._tokenizer.stop_ids), 0),
            bos_token_id=self._tokenizer.bos_id,
        )
        return TokenizerWrapper(table)


@dataclass(frozen=True)
class Grammar:
    """A compiled form."""

    _matcher: LLMatcher

    def start(self) -> GrammarState:
        """The state of a new reply."""
        return GrammarState(self._matcher.deep_copy())


class GrammarState:
    """How far one reply has come in its grammar; the engine's `TokenConstraint`."""

    __slots__ = ("_matcher",)

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fill(self, mask: npt.NDArray[np.uint32]) -> None:
        """Writes which tokens may come next; only end tokens once the reply is complete.

        Args:
            mask: `[W]`; bit i of word w stands for token 32 w + i.

        Raises:
            ValueError: If the grammar became too complex on the way, or the model has no token to
                go on with.
        """
        from llguidance.numpy import fill_next_token_bitmask

        # A failed matcher allows its end tokens, as if the reply were complete.
        if not self._matcher.is_error():
            fill_next_token_bitmask(self._matcher, mask.view(np.int32)[None])
        if self._matcher.stop_reason() == "NoExtensionBias":
            raise ValueError("the model has no token that continues it")
        if self._matcher.is_error():
            raise ValueError(_first_line(self._matcher.get_error()))

    def accept(self, token_id: int) -> None:
        """Advances by a token that was allowed."""
        self._matcher.consume_token(token_id)

    @property
    def is_finished(self) -> bool:
        """Whether nothing but an end can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


@dataclass(frozen=True, kw_only=True)
class _TokenTable:
    """A vocabulary as llguidance asks for it, for tokenizers whose rules it cannot read."""

    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    eos_token_id: int
    bos_token_id: int | None

    def __call__(self, text: bytes) -> list[int]:
        """Spells what a grammar forces, by the longest token that fits, as far as tokens go."""
        token_ids: list[int] = []
        while text:
            ends = range(min(len(text), self._longest), 0, -1)
            token_id = next((self._ids[text[:n]] for n in ends if text[:n] in self._ids), None)
            if token_id is None:
                break
            token_ids.append(token_id)
            text = text[len(self.tokens[token_id]) :]
        return token_ids

    @cached_property
    def _ids(self) -> Mapping[bytes, int]:
        special_ids = frozenset(self.special_token_ids)
        ids = (token_id for token_id in range(len(self.tokens)) if token_id not in special_ids)
        return {self.tokens[token_id]: token_id for token_id in ids}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens))


def _check_installed() -> None:
    try:
        import llguidance  # noqa: F401
    except ImportError:
        raise MissingExtraError("structured output", extra="serve") from None


def _to_source(structured: StructuredOutput) -> str:
    """The form in llguidance's own notation."""
    from llguidance import LLMatcher

    try:
        if structured.regex is not None:
            source = LLMatcher.grammar_from_regex(structured.regex)
        elif structured.choice:
            source = LLMatcher.grammar_from_lark(f"start: {quoted_options(structured.choice)}")
        elif structured.grammar is not None:
            source = LLMatcher.grammar_from_lark(structured.grammar)
        else:
            schema = structured.json_schema or {"type": "object"}
            source = LLMatcher.grammar_from_json_schema(with_whitespace(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise _refusal(str(error)) from error
    return source


def _refusal(reason: str) -> ParameterError:
    return ParameterError(f"the structured output cannot be made: {' '.join(reason.split())}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
