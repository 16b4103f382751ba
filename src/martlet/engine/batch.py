"""A plan turned into tensors: the packed tokens of one step and where each of them belongs.

tokens     | a | b | c | d d d d d | e e |      one row, [1, T]
             decoding, by length     prompts and catching up
positions  | 7 | 9 | 30| 0 1 2 3 4 | 8 9 |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from martlet.engine.attention import BlockTable, DecodeGroup, PrefillChunk, StepAttention
from martlet.engine.compiled_attention import Stretch
from martlet.engine.kv_cache import KVCache
from martlet.engine.plan import Chunk, StepPlan
from martlet.lora.rows import Segment

Ints = npt.NDArray[np.int64]

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

    def build(self, plan: StepPlan) -> StepBatch:
        """Packs the chunks of a plan: decoding requests first, by length, then longer chunks."""
        decoding = sorted(filter(_is_decoded, plan.chunks), key=lambda c: c.end)
        longer = [chunk for chunk in plan.chunks if not _is_decoded(chunk)]
        chunks = decoding + longer
        first_rows = [0, *accumulate(chunk.num_tokens for chunk in chunks)]
        places = TokenPlaces.of(chunks, self._cache.block_size)
        wanted = logit_rows(chunks, first_rows)
        return StepBatch(
            input_ids=self._tensor([t for chunk in chunks for t in chunk.token_ids])[None],
            position_ids=self._tensor(places.positions)[None],
            logit_rows=self._tensor(wanted),
            wants_all_rows=wanted == list(range(first_rows[-1])),
            attention=StepAttention(
                cache=self._cache,
                slots=self._tensor(places.slots),
                decode_groups=self._decode_groups(
                    [(chunk, at) for chunk in decoding for at in range(chunk.start, chunk.end)]
                ),
                prefill_chunks=self._prefill_chunks(longer, first_rows[len(decoding) :]),
                chunked_layers=self._chunked_layers,
                chunk_size=self._chunk_size,
                stretches=[
                    Stretch(
                        first_row=first_row,
                        num_tokens=chunk.num_tokens,
                        start=chunk.start,
                        block_ids=chunk.block_ids,
                    )
                    for chunk, first_row in zip(chunks, first_rows, strict=False)
                ],
            ),
            token_adapters=tuple((c.num_tokens, c.request.adapter) for c in chunks),
            rows=LogitRows.of(chunks),
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


@dataclass(frozen=True, kw_only=True)
class TokenPlaces:
    """Where the tokens of a step stand, T of them, and where their keys and values go."""

    positions: Ints
    """`[T]`, in their requests."""
    slots: Ints
    """`[T]`, block id times block size plus offset."""
    block_ids: Ints
    """The block tables of the chunks, one behind the other."""
    tables: Ints
    """Where the table of each chunk starts."""

    @classmethod
    def of(cls, chunks: Sequence[Chunk], block_size: int) -> Self:
        """The places of some chunks' tokens, computed for all at once: there may be a thousand."""
        num_tokens = np.array([chunk.num_tokens for chunk in chunks])
        starts = np.array([chunk.start for chunk in chunks])
        num_blocks = np.array([len(chunk.block_ids) for chunk in chunks])
        first_rows, tables = np.cumsum(num_tokens) - num_tokens, np.cumsum(num_blocks) - num_blocks
        block_ids = np.fromiter(
            chain.from_iterable(chunk.block_ids for chunk in chunks), np.int64, num_blocks.sum()
        )
        positions = np.arange(num_tokens.sum()) + np.repeat(starts - first_rows, num_tokens)
        blocks = block_ids[np.repeat(tables, num_tokens) + positions // block_size]
        return cls(
            positions=positions,
            slots=blocks * block_size + positions % block_size,
            block_ids=block_ids,
            tables=tables,
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
