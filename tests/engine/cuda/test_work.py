"""Work items: every key that a row sees is read for it exactly once, whatever is shared and cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.engine.cuda.shared_runs import MAX_NESTING, find_shared_runs, sharing_order
from martlet.engine.cuda.work import WHOLE, PromptRows, Work, WorkShape, plan_work

BLOCK_SIZE = 16
SHAPES = [
    WorkShape(num_wide_tokens=tokens, num_items_wanted=items)
    for tokens, items in ((1, 1), (4, 3), (16, 66), (64, 500))
]


@st.composite
def tables_and_lengths(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """Requests of some families, each with a beginning in common, and families of families."""
    tables, lengths = [], []
    fresh = iter(range(10**6))
    for _ in range(draw(st.integers(1, 3))):
        common = [next(fresh) for _ in range(draw(st.integers(0, 80)))]
        for _ in range(draw(st.integers(1, 3))):
            inner = [next(fresh) for _ in range(draw(st.integers(0, 80)))]
            for _ in range(draw(st.integers(1, 9))):
                own = [next(fresh) for _ in range(draw(st.integers(1, 40)))]
                tables.append([*common, *inner, *own])
                lengths.append(len(tables[-1]) * BLOCK_SIZE - draw(st.integers(0, BLOCK_SIZE - 1)))
    return tables, lengths


def plan(tables: list[list[int]], lengths: list[int], shape: WorkShape) -> tuple[Work, list[int]]:
    """The work of decoding rows, and the order that they were put into."""
    padded = np.full((len(tables), max(map(len, tables))), -1, dtype=np.int64)
    for row, table in enumerate(tables):
        padded[row, : len(table)] = table
    order = sharing_order(padded)
    in_order = np.array(lengths)[order]
    runs = find_shared_runs(padded[order], (in_order - 1) // BLOCK_SIZE, BLOCK_SIZE)
    firsts = np.array([1000 * row for row in order])
    prompts = [PromptRows(first_row=len(order), num_rows=37, start=5, table=77)]
    work = plan_work(
        shape,
        lengths=in_order,
        tables=firsts,
        runs=runs,
        block_size=BLOCK_SIZE,
        prompts=prompts,
    )
    return work, order.tolist()


@settings(max_examples=60, deadline=None)
@given(tables_and_lengths(), st.sampled_from(SHAPES))
def test_each_row_gets_each_of_its_keys_once(
    family: tuple[list[list[int]], list[int]], shape: WorkShape
) -> None:
    tables, lengths = family
    work, order = plan(tables, lengths, shape)
    seen = [np.zeros(lengths[row], dtype=np.int64) for row in order]
    ordinals: list[list[int]] = [[] for _ in order]
    for first_row, num_rows, table, first_key, end_key, ordinal in [*work.narrow, *work.wide]:
        assert 1 <= num_rows <= shape.num_wide_tokens
        for row in range(first_row, min(first_row + num_rows, len(order))):
            # The item's table and the row's own hold the same blocks where the item reads.
            blocks = slice(first_key // BLOCK_SIZE, -(-end_key // BLOCK_SIZE))
            assert tables[table // 1000][blocks] == tables[order[row]][blocks]
            seen[row][first_key:end_key] += 1
            ordinals[row].append(ordinal)
    assert all((keys == 1).all() for keys in seen)
    for row, given_ordinals in enumerate(ordinals):
        count = work.num_parts[row]
        assert sorted(given_ordinals) == ([WHOLE] if count == 1 else list(range(count)))


@settings(max_examples=60, deadline=None)
@given(tables_and_lengths(), st.sampled_from(SHAPES))
def test_parts_do_not_overlap_and_everything_fits_where_a_graph_has_room(
    family: tuple[list[list[int]], list[int]], shape: WorkShape
) -> None:
    work, order = plan(*family, shape)
    num_rows = len(order)
    several = work.num_parts > 1
    firsts, counts = work.first_parts[several], work.num_parts[several]
    assert np.array_equal(firsts, np.cumsum(counts) - counts)
    assert counts.sum() <= shape.max_parts(num_rows)
    assert len(work.narrow) <= shape.max_narrow(num_rows)
    num_prompt_items = -(-37 // shape.num_wide_tokens)
    assert len(work.wide) - num_prompt_items <= shape.max_wide(num_rows)


def test_samples_of_one_prompt_read_it_once() -> None:
    tables = [[*range(64), 100 + sample] for sample in range(8)]
    work, _ = plan(tables, [64 * BLOCK_SIZE + 3] * 8, SHAPES[2])
    keys = work.narrow[:, 4] - work.narrow[:, 3]
    assert keys.sum() == 8 * 3
    shared = work.wide[work.wide[:, 0] == 0]
    assert (shared[:, 4] - shared[:, 3]).sum() == 64 * BLOCK_SIZE


def test_instructions_and_questions_are_shared_at_once() -> None:
    """All questions begin with the same instructions, and each has several samples."""
    tables = [
        [*range(10), *range(1000 * q, 1000 * q + 64), 10**5 + 8 * q + sample]
        for q in range(1, 4)
        for sample in range(4)
    ]
    padded = np.array(tables)
    order = sharing_order(padded)
    runs = find_shared_runs(padded[order], np.full(12, 74), BLOCK_SIZE)
    assert sorted((run.num_rows, run.first_block, run.end_block) for run in runs) == [
        (4, 10, 74),
        (4, 10, 74),
        (4, 10, 74),
        (12, 0, 10),
    ]
    assert runs[0].num_rows == 12, "outer runs come first"


def test_little_in_common_is_not_worth_a_part_more() -> None:
    padded = np.array([[0, 1], [0, 2]])
    assert find_shared_runs(padded, np.array([1, 1]), BLOCK_SIZE) == []


def test_nesting_is_bounded() -> None:
    depth = 100
    tables = np.array(
        [[*range(row * depth), *[-row - 1] * (depth * (8 - row))] for row in range(8)]
    )
    order = sharing_order(tables)
    runs = find_shared_runs(tables[order], np.arange(8)[order] * depth, BLOCK_SIZE)
    rows_in = np.zeros(8, dtype=int)
    for run in runs:
        rows_in[run.first_row : run.end_row] += 1
    assert rows_in.max() <= MAX_NESTING


def test_a_single_long_request_keeps_the_device_busy() -> None:
    work, _ = plan([list(range(2000))], [2000 * BLOCK_SIZE], SHAPES[2])
    assert len(work.narrow) == pytest.approx(66, abs=3)
