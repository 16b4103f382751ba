"""A plan turned into the numbers that the kernels and the model need.

rows   | a b c d | e e e e e | f f |      those of one token, sharers of a beginning side by side,
                                          then prompts and catching up
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Self

import numpy as np

from martlet.engine.batch import logit_rows
from martlet.engine.cuda.shared_runs import Ints, find_shared_runs, sharing_order
from martlet.engine.cuda.step_buffer import StepArrays
from martlet.engine.cuda.work import PromptRows, WorkShape, plan_work
from martlet.engine.plan import Chunk, StepPlan


@dataclass(frozen=True, kw_only=True)
class PackedStep:
    """The chunks of a step in the order of their rows, and its numbers."""

    chunks: tuple[Chunk, ...]
    arrays: StepArrays
    has_wide: bool

    @property
    def only_decodes(self) -> bool:
        """Whether each row is one request's last known token, whose logits are wanted."""
        return all(
            chunk.num_tokens == 1 and chunk.samples and not chunk.scores_prompt
            for chunk in self.chunks
        )


def pack(plan: StepPlan, shape: WorkShape, block_size: int) -> PackedStep:
    """Orders the chunks of a plan and cuts their attention into work items."""
    decoding = [chunk for chunk in plan.chunks if chunk.num_tokens == 1]
    padded = _padded_tables(decoding)
    order = sharing_order(padded)
    decoding = [decoding[i] for i in order]
    lengths = np.array([chunk.end for chunk in decoding], dtype=np.int64)
    chunks = (*decoding, *(chunk for chunk in plan.chunks if chunk.num_tokens > 1))
    first_rows = [0, *accumulate(chunk.num_tokens for chunk in chunks)]
    places = TokenPlaces.of(chunks, block_size)
    work = plan_work(
        shape,
        lengths=lengths,
        tables=places.tables[: len(decoding)],
        runs=find_shared_runs(padded[order], (lengths - 1) // block_size, block_size),
        block_size=block_size,
        prompts=[
            PromptRows(
                first_row=first_row, num_rows=chunk.num_tokens, start=chunk.start, table=table
            )
            for chunk, first_row, table in zip(
                chunks, first_rows, places.tables.tolist(), strict=False
            )
            if chunk.num_tokens > 1
        ],
    )
    arrays = StepArrays(
        input_ids=np.array([t for chunk in chunks for t in chunk.token_ids], dtype=np.int64),
        position_ids=places.positions,
        slots=places.slots,
        logit_rows=np.array(logit_rows(chunks, first_rows), dtype=np.int64),
        first_parts=work.first_parts,
        num_parts=work.num_parts,
        narrow=work.narrow,
        wide=work.wide,
        block_ids=places.block_ids,
    )
    return PackedStep(chunks=chunks, arrays=arrays, has_wide=len(work.wide) > 0)


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


def _padded_tables(chunks: Sequence[Chunk]) -> Ints:
    width = max((len(chunk.block_ids) for chunk in chunks), default=1)
    tables = np.full((len(chunks), width), -1, dtype=np.int64)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.block_ids)] = chunk.block_ids
    return tables
