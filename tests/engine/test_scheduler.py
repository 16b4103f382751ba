"""Exact plans: who gets which tokens and which blocks, without a model."""

import random
from collections.abc import Sequence
from itertools import takewhile

from martlet.engine.config import EngineConfig
from martlet.engine.params import SamplingParams
from martlet.engine.plan import StepPlan
from martlet.engine.request import Request
from martlet.engine.scheduler import Scheduler


def make_scheduler(
    *,
    num_blocks: int = 8,
    max_num_requests: int = 4,
    budget: int = 16,
    headroom: int = 0,
    sharing: bool = True,
) -> Scheduler:
    return Scheduler(
        EngineConfig(
            num_blocks=num_blocks,
            block_size=4,
            max_num_requests=max_num_requests,
            max_num_batched_tokens=budget,
            max_context_tokens=min(32, num_blocks * 4),
            headroom_blocks=headroom,
            prefix_sharing=sharing,
        )
    )


def make_request(request_id: str, prompt: Sequence[int], *, namespace: str = "") -> Request:
    return Request(
        request_id=request_id,
        prompt_ids=tuple(prompt),
        params=SamplingParams(),
        seed=0,
        stop_ids=frozenset(),
        max_num_tokens=32,
        namespace=namespace,
    )


def commit(scheduler: Scheduler, plan: StepPlan, *, drawn: int = 99) -> None:
    """What the engine does: a token is drawn, and one more for each guess that it agrees with."""
    for chunk in plan.chunks:
        if chunk.samples:
            is_right = takewhile(lambda guess: guess == drawn, chunk.draft)
            for token_id in (*is_right, drawn):
                chunk.request.append(token_id)
    scheduler.commit(plan)


def shares(plan: StepPlan) -> list[tuple[str, int, int, tuple[int, ...]]]:
    return [(c.request.request_id, c.start, c.num_tokens, c.block_ids) for c in plan.chunks]


def test_a_long_prompt_is_chunked_and_decoding_goes_on_beside_it() -> None:
    scheduler = make_scheduler(budget=6)
    scheduler.add(make_request("short", range(3)))
    scheduler.add(make_request("long", range(10, 20)))
    plan = scheduler.plan()
    assert shares(plan) == [("short", 0, 3, (0,)), ("long", 0, 3, (1,))]
    assert [chunk.samples for chunk in plan.chunks] == [True, False]
    commit(scheduler, plan)
    plan = scheduler.plan()
    assert shares(plan) == [("short", 3, 1, (0,)), ("long", 3, 5, (1, 2))]
    commit(scheduler, plan)
    plan = scheduler.plan()
    assert shares(plan) == [("short", 4, 1, (0, 3)), ("long", 8, 2, (1, 2, 4))]
    assert [chunk.samples for chunk in plan.chunks] == [True, True]


def test_samples_of_one_prompt_share_its_blocks_within_one_step() -> None:
    scheduler = make_scheduler()
    for k in range(3):
        scheduler.add(make_request(f"sample {k}", range(9)))
    plan = scheduler.plan()
    assert shares(plan) == [
        ("sample 0", 0, 9, (0, 1, 2)),
        ("sample 1", 8, 1, (0, 1, 3)),
        ("sample 2", 8, 1, (0, 1, 4)),
    ]
    assert plan.num_cached_tokens == 16
    scheduler.check_integrity()


def test_the_last_token_is_always_computed() -> None:
    """A prompt that ends with a block shares all but that block: its logits are needed."""
    scheduler = make_scheduler()
    for k in range(2):
        scheduler.add(make_request(f"sample {k}", range(8)))
    assert shares(scheduler.plan()) == [
        ("sample 0", 0, 8, (0, 1)),
        ("sample 1", 4, 4, (0, 2)),
    ]


def test_nothing_is_shared_across_adapters_or_with_sharing_off() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("base", range(6)))
    scheduler.add(make_request("judge", range(6), namespace="judge@1"))
    assert [chunk.start for chunk in scheduler.plan().chunks] == [0, 0]
    scheduler = make_scheduler(sharing=False)
    scheduler.add(make_request("one", range(6)))
    scheduler.add(make_request("two", range(6)))
    assert [chunk.start for chunk in scheduler.plan().chunks] == [0, 0]


def test_a_reply_is_shared_as_the_beginning_of_the_next_turn() -> None:
    scheduler = make_scheduler()
    first = make_request("turn 1", range(6))
    scheduler.add(first)
    for drawn in (70, 71, 72):
        commit(scheduler, scheduler.plan(), drawn=drawn)
    scheduler.finish(first, "stop")
    scheduler.add(make_request("turn 2", [*range(6), 70, 71, 72, 5]))
    assert shares(scheduler.plan()) == [("turn 2", 8, 2, (0, 1, 2))]


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    scheduler = make_scheduler(num_blocks=4, max_num_requests=3, sharing=False)
    old, young = make_request("old", range(8)), make_request("young", range(20, 28))
    scheduler.add(old)
    scheduler.add(young)
    scheduler.add(make_request("waiting", range(40, 44)))
    commit(scheduler, scheduler.plan())
    plan = scheduler.plan()
    assert plan.num_preempted == 1
    assert shares(plan) == [("old", 8, 1, (0, 1, 2))]
    assert [request.request_id for request in scheduler.waiting] == ["young", "waiting"]
    scheduler.check_integrity()
    scheduler.finish(old, "stop")
    plan = scheduler.plan()
    assert [chunk.request.request_id for chunk in plan.chunks] == ["young", "waiting"]
    assert plan.chunks[0].num_tokens == 9


def test_admission_leaves_room_for_the_replies_of_those_who_run() -> None:
    scheduler = make_scheduler(num_blocks=5, headroom=2, sharing=False)
    scheduler.add(make_request("first", range(8)))
    scheduler.add(make_request("second", range(20, 28)))
    assert [chunk.request.request_id for chunk in scheduler.plan().chunks] == ["first"]
    scheduler.check_integrity()


def test_a_failed_step_forgets_what_it_did_not_write() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("first", range(9)))
    plan = scheduler.plan()
    failed = scheduler.fail(plan, "out of memory")
    assert [request.error for request in failed] == ["out of memory"]
    assert scheduler.pool.num_registered == 0
    scheduler.check_integrity()
    scheduler.add(make_request("again", range(9)))
    assert [chunk.start for chunk in scheduler.plan().chunks] == [0]


def test_random_traces_keep_the_books() -> None:
    for seed in range(60):
        _run_random_trace(random.Random(seed))


def _run_random_trace(chance: random.Random) -> None:
    """Adds, steps, aborts and fails in random order, in a pool that is often too small."""
    scheduler = make_scheduler(
        num_blocks=chance.randint(8, 16),
        max_num_requests=chance.randint(1, 5),
        budget=chance.randint(5, 20),
        headroom=chance.randint(0, 2),
        sharing=chance.random() < 0.8,
    )
    num_added = 0
    for _ in range(80):
        action = chance.random()
        if action < 0.3:
            # Few distinct tokens, so that many beginnings are the same.
            prompt = [chance.randint(0, 1) for _ in range(chance.randint(1, 20))]
            scheduler.add(make_request(str(num_added), prompt))
            num_added += 1
        elif action < 0.4 and scheduler.num_unfinished:
            scheduler.finish(chance.choice(list(scheduler.requests())), "abort")
        elif action < 0.43:
            scheduler.fail(scheduler.plan(), "broken")
        else:
            commit(scheduler, scheduler.plan(), drawn=chance.randint(0, 1))
            for request in list(scheduler.running):
                if request.num_tokens >= request.max_num_tokens:
                    scheduler.finish(request, "length")
        scheduler.check_integrity()
    while scheduler.num_unfinished:
        plan = scheduler.plan()
        assert plan, "requests are left and none can go on"
        commit(scheduler, plan)
        for request in list(scheduler.running):
            if request.num_tokens >= request.max_num_tokens:
                scheduler.finish(request, "length")
        scheduler.check_integrity()
    assert scheduler.pool.num_free == scheduler.pool.num_blocks
