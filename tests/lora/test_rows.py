"""The layers' fast ways equal the simplest one: one row after the other, written out."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from martlet.errors import AdapterError
from martlet.lora.layer import AdaptedLinear
from martlet.lora.revision import AdapterRevision, Delta
from martlet.lora.rows import MIN_RUN_ROWS, map_rows
from martlet.lora.step import AdapterStep
from martlet.models.compiled.threads import can_compile
from martlet.models.linear.compiled_low_rank import RankPanels
from martlet.models.linear.grouped_low_rank import GroupedLowRank

NUM_IN, NUM_OUT = 12, 20
CPU = torch.device("cpu")


def revision(name: str, delta: Delta | None) -> AdapterRevision:
    return AdapterRevision(
        name=name,
        path=Path(name),
        revision="0" * 16,
        ranks=(),
        num_tensors=0,
        num_tensors_expected=0,
        deltas={} if delta is None else {"leaf": delta},
    )


def low_rank(rank: int) -> dict[str, Tensor]:
    return {"down": torch.randn(rank, NUM_IN), "up": torch.randn(rank, NUM_OUT)}


def adapters() -> list[AdapterRevision]:
    deltas = [
        Delta(**low_rank(4)),
        Delta(**low_rank(16)),
        Delta(**low_rank(3), gain=torch.randn(NUM_OUT), shift=torch.randn(NUM_OUT)),
        Delta(shift=torch.randn(NUM_OUT)),
        Delta(replacement=nn.Linear(NUM_IN, NUM_OUT)),
        None,
    ]
    return [revision(str(number), delta) for number, delta in enumerate(deltas)]


def row_by_row(base: nn.Linear, x: Tensor, owners: list[AdapterRevision | None]) -> Tensor:
    rows = []
    for row, owner in zip(x, owners, strict=True):
        out = base(row)
        delta = None if owner is None else owner.deltas.get("leaf")
        if delta is not None:
            if delta.replacement is not None:
                out = delta.replacement(row)
            if delta.gain is not None:
                out = out + delta.gain * (base.weight @ row)
            if delta.down is not None and delta.up is not None:
                out = out + delta.up.T @ (delta.down @ row)
            if delta.shift is not None:
                out = out + delta.shift
        rows.append(out)
    return torch.stack(rows)


@torch.inference_mode()
@pytest.mark.parametrize("in_groups", [False, True], ids=["stacked", "grouped"])
def test_random_rows(in_groups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped products are for GPUs, and compute the same here."""
    monkeypatch.setattr("martlet.lora.layer.groups_pay", lambda _down, _up: in_groups)
    torch.manual_seed(0)
    base, known = nn.Linear(NUM_IN, NUM_OUT), adapters()
    step = AdapterStep()
    layer = AdaptedLinear(base, name="leaf", step=step, sees_logits=False)
    num_mixed = num_alone = 0
    for seed in range(60):
        chance = random.Random(seed)
        owners = [None, *chance.sample(known, chance.randint(1, len(known)))]
        segments = [
            (chance.choice((1, 1, 1, 2, MIN_RUN_ROWS, 30)), chance.choice(owners))
            for _ in range(chance.randint(1, 20))
        ]
        by_row = [adapter for length, adapter in segments for _ in range(length)]
        x = torch.randn(1, len(by_row), NUM_IN)
        with step.running(segments, [], CPU):
            out = layer(x)
            num_mixed += sum(part.slots is not None for part in step.tokens.parts)
            num_alone += sum(part.slots is None for part in step.tokens.parts)
        assert torch.allclose(out[0], row_by_row(base, x[0], by_row), atol=1e-4), seed
        assert torch.equal(layer(x), base(x)), "outside of a step every row is the base's"
    assert min(num_mixed, num_alone) > 20


@torch.inference_mode()
@pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")
def test_random_rows_of_compiled_adapters() -> None:
    """In bf16 a layer computes the same whether its adapters lie in panels or not."""
    torch.manual_seed(0)
    base = nn.Linear(512, 64).bfloat16()
    known: dict[AdapterRevision, AdapterRevision] = {}
    for number, rank in enumerate((4, 16, 33)):
        down, up = torch.randn(rank, 512).bfloat16() / 16, torch.randn(rank, 64).bfloat16()
        more = {"gain": torch.rand(64).bfloat16()} if number else {}
        plain = revision(str(number), Delta(down=down, up=up, **more))
        panels = RankPanels.of(down, up)
        assert panels is not None
        known[plain] = revision(str(number), Delta(panels=panels, **more))
        assert known[plain].rank_in("leaf") == rank
    step = AdapterStep()
    layer = AdaptedLinear(base, name="leaf", step=step, sees_logits=False)
    for seed in range(20):
        chance = random.Random(seed)
        segments = [
            (chance.choice((1, 1, 2, MIN_RUN_ROWS, 30)), chance.choice((None, *known)))
            for _ in range(chance.randint(1, 20))
        ]
        x = torch.randn(1, sum(length for length, _ in segments), 512).bfloat16()
        with step.running(segments, [], CPU):
            expected = layer(x)
        in_panels = [(length, adapter and known[adapter]) for length, adapter in segments]
        with step.running(in_panels, [], CPU):
            torch.testing.assert_close(layer(x), expected, rtol=2e-2, atol=6e-2)


def test_the_parts_of_a_step() -> None:
    a, b, c = adapters()[:3]
    segments = [(1, a), (1, b), (1, a), (1, None), (3, None), (20, b), (9, b), (12, None), (10, c)]
    row_map = map_rows(segments, (), CPU)
    assert row_map.num_rows == 58
    mixed, long, last = row_map.parts
    assert (mixed.rows, long.rows, last.rows) == (slice(0, 7), slice(7, 36), slice(48, 58))
    assert mixed.slots is not None
    assert [mixed.adapters[slot].name if slot >= 0 else "." for slot in mixed.slots.tolist()] == [
        *"010",
        *"....",
    ]
    assert (long.adapters, last.adapters) == ((b,), (c,))
    assert map_rows([(5, None), (20, None)], (), CPU).parts == ()


def test_a_stack_is_kept_while_it_serves() -> None:
    known = adapters()
    first = map_rows([(1, known[0]), (1, known[1]), (1, known[2])], (), CPU).stack
    assert set(first) == set(known[:3])
    fewer = map_rows([(1, known[2]), (1, known[0])], first, CPU).stack
    assert fewer is first
    assert map_rows([(40, known[3])], first, CPU).stack is first
    assert map_rows([(1, known[0]), (1, None)], first, CPU).stack == (known[0],)
    assert set(map_rows([(1, known[0]), (1, known[3])], first, CPU).stack) == {known[0], known[3]}


def test_a_leaf_that_does_not_see_all_tokens_is_found_out() -> None:
    step = AdapterStep()
    layer = AdaptedLinear(nn.Linear(NUM_IN, NUM_OUT), name="expert", step=step, sees_logits=False)
    with (
        step.running([(5, adapters()[0])], [], CPU),
        pytest.raises(AdapterError, match="expert does not see the tokens one by one"),
    ):
        layer(torch.randn(4, NUM_IN))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_add_what_a_stack_and_its_mask_do(dtype: torch.dtype) -> None:
    """Adapters of different ranks, one without rows, one that adds nothing, rows of the base."""
    torch.manual_seed(0)
    ranks = (4, 16, 0, 7)
    pairs = [
        (torch.randn(rank, 48).to(dtype), torch.randn(rank, 32).to(dtype)) if rank else None
        for rank in ranks
    ]
    slots = torch.tensor([3, -1, 0, 2, 0, -1, 3, 3])
    x, out = torch.randn(10, 48).to(dtype), torch.randn(10, 32).to(dtype)
    expected = out.clone()
    for row, slot in enumerate(slots.tolist()):
        pair = pairs[slot] if slot >= 0 else None
        if pair is not None:
            expected[1 + row] += (x[1 + row] @ pair[0].T) @ pair[1]
    rows, ends = 1 + torch.tensor([2, 4, 3, 0, 6, 7]), torch.tensor([2, 2, 3, 6]).int()
    GroupedLowRank(pairs).add_(out, x, rows, ends)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
