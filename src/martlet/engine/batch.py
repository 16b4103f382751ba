"""A plan turned into rows: the packed tokens of one step and where each of them belongs.

tokens     | a | b | c | d d d d d | e e |      one row, [1, T]
             decoding, by length     prompts and catching up
positions  | 7 | 9 | 30| 0 1 2 3 4 | 8 9 |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np
import torch
from torch import Tensor

from martlet.engine.attention import BlockTable, DecodeGroup, PrefillChunk, StepAttention
from martlet.engine.compiled_attention import Stretch
from martlet.engine.kv_cache import KVCache
from martlet.engine.plan import Chunk, StepPlan
from martlet.lora.rows import Segment

GROUP_LENGTH_RATIO = 1.25
"""Decoding requests are attended to together while the longest has at most this many times the
blocks of the shortest: padding is read for nothing, and every group costs calls in each layer."""
MAX_SPREAD_BLOCKS = 64
"""Blocks up to which the tokens of a draft are attended to like requests of their own, each with
keys of its own: that costs less than calls for every draft, until there are many keys to read."""


@dataclass(frozen=True, kw_only=True)
class LogitRows:
    """Whose the rows of logits are: first those of prompts to score, chunk by chunk, then one for
    each chunk that draws a token, then those of drafts, chunk by chunk."""

    scored: tuple[Chunk, ...]
    """Chunks whose prompt tokens are scored, in the order of the rows."""
    sampled: tuple[Chunk, ...]
    """Chunks that draw a token, in the order of the rows."""

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Self:
        """Of chunks in the order of their tokens."""
        return cls(
            scored=tuple(chunk for chunk in chunks if chunk.scores_prompt),
            sampled=tuple(chunk for chunk in chunks if chunk.samples),
        )

    @property
    def num_scored_rows(self) -> int:
        return sum(chunk.num_tokens for chunk in self.scored)

    @property
    def num_drafted_rows(self) -> int:
        return sum(len(chunk.draft) for chunk in self.sampled)

    @property
    def adapters(self) -> tuple[Segment, ...]:
        """The adapters of the rows, in order."""
        return (
            *((chunk.num_tokens, chunk.request.adapter) for chunk in self.scored),
            *((1, chunk.request.adapter) for chunk in self.sampled),
            *((len(chunk.draft), chunk.request.adapter) for chunk in self.sampled if chunk.draft),
        )

    def draft_slots(self, block_size: int) -> list[int]:
        """Where the keys and values of drafts went, in the order of their rows."""
        return [
            chunk.block_ids[position // block_size] * block_size + position % block_size
            for chunk in self.sampled
            for position in range(chunk.known_end, chunk.end)
        ]


@dataclass(frozen=True, kw_only=True)
class PackedChunks:
    """The chunks of a plan in the order of their rows: decoding requests first, by length."""

    chunks: tuple[Chunk, ...]
    num_decoding: int
    """Chunks whose tokens are attended to one by one; the first ones."""
    first_rows: tuple[int, ...]
    """Of each chunk, and behind the last one."""
    positions: list[int]
    """Of each token in its request."""
    slots: list[int]
    """Where the keys and values of each token go: block id times block size plus offset."""
    logit_rows: list[int]
    """The rows whose logits are wanted, in the order of `rows`."""
    rows: LogitRows

    @classmethod
    def of(cls, plan: StepPlan, block_size: int) -> Self:
        """Orders the chunks of a plan."""
        decoding = sorted(filter(_is_decoded, plan.chunks), key=lambda c: c.end)
        chunks = (*decoding, *(chunk for chunk in plan.chunks if not _is_decoded(chunk)))
        first_rows = tuple(accumulate((chunk.num_tokens for chunk in chunks), initial=0))
        places = [(chunk.block_ids, at) for chunk in chunks for at in range(chunk.start, chunk.end)]
        return cls(
            chunks=chunks,
            num_decoding=len(decoding),
            first_rows=first_rows,
            positions=[at for _, at in places],
            slots=[ids[at // block_size] * block_size + at % block_size for ids, at in places],
            logit_rows=logit_rows(chunks, first_rows),
            rows=LogitRows.of(chunks),
        )

    @property
    def num_rows(self) -> int:
        return self.first_rows[-1]

    @cached_property
    def wants_all_rows(self) -> bool:
        """Whether `logit_rows` are all rows in their order."""
        return self.logit_rows == list(range(self.num_rows))

    @property
    def token_ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.token_ids]

    @property
    def token_adapters(self) -> tuple[Segment, ...]:
        """The adapters of the tokens, in order."""
        return tuple((chunk.num_tokens, chunk.request.adapter) for chunk in self.chunks)

    @property
    def stretches(self) -> list[Stretch]:
        """The same tokens, as compiled attention takes them."""
        return [
            Stretch(
                first_row=first_row,
                num_tokens=chunk.num_tokens,
                start=chunk.start,
                block_ids=chunk.block_ids,
            )
            for chunk, first_row in zip(self.chunks, self.first_rows, strict=False)
        ]


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """What the model is called with, and whose logits come back."""

    input_ids: Tensor
    """`[1, T]`."""
    position_ids: Tensor
    """`[1, T]`."""
    logit_rows: Tensor
    """`[N]`, the rows whose logits are wanted."""
    wants_all_rows: bool
    """Whether `logit_rows` are all rows in their order."""
    attention: object
    """Handed on to the attention function."""
    token_adapters: tuple[Segment, ...]
    """The adapters of the packed tokens, in order."""
    rows: LogitRows


class BatchBuilder:
    """Builds the tensors of a step.

    Args:
        cache: The pool that the attention reads and writes.
        device: Where the tensors go.
        chunked_layers: Layers that attend within stretches of `chunk_size` positions.
    """

    def __init__(
        self,
        cache: KVCache,
        device: torch.device,
        *,
        chunked_layers: frozenset[int] = frozenset(),
        chunk_size: int | None = None,
    ) -> None:
        self._cache = cache
        self._device = device
        self._chunked_layers = chunked_layers
        self._chunk_size = chunk_size

    def build(self, packed: PackedChunks) -> StepBatch:
        """What the model computes the rows from."""
        decoding = packed.chunks[: packed.num_decoding]
        return StepBatch(
            input_ids=self._tensor(packed.token_ids)[None],
            position_ids=self._tensor(packed.positions)[None],
            logit_rows=self._tensor(packed.logit_rows),
            wants_all_rows=packed.wants_all_rows,
            attention=StepAttention(
                cache=self._cache,
                slots=self._tensor(packed.slots),
                decode_groups=self._decode_groups(
                    [(chunk, at) for chunk in decoding for at in range(chunk.start, chunk.end)]
                ),
                prefill_chunks=self._prefill_chunks(
                    packed.chunks[packed.num_decoding :], packed.first_rows[packed.num_decoding :]
                ),
                chunked_layers=self._chunked_layers,
                chunk_size=self._chunk_size,
                stretches=packed.stretches,
            ),
            token_adapters=packed.token_adapters,
            rows=packed.rows,
        )

    def _decode_groups(self, decoding: Sequence[tuple[Chunk, int]]) -> list[DecodeGroup]:
        groups = []
        first = 0
        while first < len(decoding):
            limit = max(len(decoding[first][0].block_ids) * GROUP_LENGTH_RATIO, 4)
            last = first
            while last < len(decoding) and len(decoding[last][0].block_ids) <= limit:
                last += 1
            groups.append(self._decode_group(decoding[first:last], first))
            first = last
        return groups

    def _decode_group(self, tokens: Sequence[tuple[Chunk, int]], first_row: int) -> DecodeGroup:
        """Tokens, each a chunk and a position in it, that attend together."""
        num_blocks = len(tokens[-1][0].block_ids)
        block_ids = np.empty((len(tokens), num_blocks), dtype=np.int64)
        for row, (chunk, _) in enumerate(tokens):
            block_ids[row, : len(chunk.block_ids)] = chunk.block_ids
            # Padding is masked, but NaN passes any mask: only a request's own may reach it.
            block_ids[row, len(chunk.block_ids) :] = chunk.block_ids[-1]
        return DecodeGroup(
            rows=slice(first_row, first_row + len(tokens)),
            table=BlockTable(self._tensor(block_ids)),
            positions=self._tensor([position for _, position in tokens]),
        )

    def _prefill_chunks(
        self, chunks: Sequence[Chunk], first_rows: Sequence[int]
    ) -> list[PrefillChunk]:
        return [
            PrefillChunk(
                rows=slice(first_row, first_row + chunk.num_tokens),
                start=chunk.start,
                table=BlockTable(self._tensor([chunk.block_ids])),
            )
            for chunk, first_row in zip(chunks, first_rows, strict=False)
        ]

    def _tensor(self, values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=self._device)


def _is_decoded(chunk: Chunk) -> bool:
    """Whether a chunk's tokens are attended to one by one."""
    return chunk.num_tokens == 1 or (
        bool(chunk.draft) and len(chunk.block_ids) <= MAX_SPREAD_BLOCKS
    )


def logit_rows(chunks: Sequence[Chunk], first_rows: Sequence[int]) -> list[int]:
    """The rows whose logits are wanted: those of prompts to score, then one for each draw, then
    those of drafts."""
    rows: list[int] = []
    for chunk, first_row in zip(chunks, first_rows, strict=False):
        if chunk.scores_prompt:
            rows.extend(range(first_row, first_row + chunk.num_tokens))
    for chunk, first_row in zip(chunks, first_rows, strict=False):
        if chunk.samples:
            rows.append(first_row + chunk.num_tokens - len(chunk.draft) - 1)
    for chunk, first_row in zip(chunks, first_rows, strict=False):
        if chunk.draft:
            end_row = first_row + chunk.num_tokens
            rows.extend(range(end_row - len(chunk.draft), end_row))
    return rows
