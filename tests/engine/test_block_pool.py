"""The block pool hands out exact ids in an exact order, and its books always add up."""

import pytest

from martlet.engine.block_pool import BlockPool, block_key, root_key

ROOT = root_key("")


def test_blocks_are_handed_out_in_order_and_reused_last_freed_first_if_unregistered() -> None:
    pool = BlockPool(4)
    assert pool.take(2) == [0, 1]
    pool.release([0, 1])
    # Neither can be found again, so both go to the front; the end of a table is freed first.
    assert pool.take(4) == [0, 1, 2, 3]


def test_asking_for_too_many_takes_none() -> None:
    pool = BlockPool(2)
    assert pool.take(3) is None
    assert pool.num_free == 2


def test_registered_blocks_outlive_their_holder_and_the_least_recent_is_reused_first() -> None:
    pool = BlockPool(3)
    first, second = pool.take(2) or []
    pool.register(first, block_key(ROOT, [1]), ROOT, [1])
    pool.register(second, block_key(ROOT, [2]), ROOT, [2])
    pool.release([first])
    pool.release([second])
    assert pool.find(block_key(ROOT, [1]), ROOT, [1]) == first
    assert pool.take(2) == [2, first]
    assert pool.find(block_key(ROOT, [1]), ROOT, [1]) is None
    assert pool.find(block_key(ROOT, [2]), ROOT, [2]) == second


def test_a_found_block_can_be_held_by_many() -> None:
    pool = BlockPool(2)
    (block,) = pool.take(1) or []
    pool.register(block, block_key(ROOT, [1]), ROOT, [1])
    pool.hold(block)
    pool.check_integrity([[block], [block]])
    pool.release([block])
    assert pool.num_free == 1
    pool.release([block])
    assert pool.num_free == 2


def test_blocks_are_kept_while_they_are_held_or_can_be_found() -> None:
    pool = BlockPool(4)
    held, found, free = pool.take(3) or []
    pool.register(found, block_key(ROOT, [1]), ROOT, [1])
    pool.release([found])
    pool.release([free])
    assert pool.kept_blocks() == [held, found]


def test_tokens_and_parent_are_compared_on_a_hit() -> None:
    """Two beginnings with one key would otherwise read each other's answers."""
    pool = BlockPool(1)
    (block,) = pool.take(1) or []
    key = block_key(ROOT, [1, 2])
    pool.register(block, key, ROOT, [1, 2])
    assert pool.find(key, ROOT, [1, 3]) is None
    assert pool.find(key, root_key("judge@1"), [1, 2]) is None
    assert pool.find(key, ROOT, [1, 2]) == block


def test_keys_depend_on_tokens_order_parent_and_namespace() -> None:
    keys = {
        block_key(ROOT, [1, 2]),
        block_key(ROOT, [2, 1]),
        block_key(block_key(ROOT, [1, 2]), [1, 2]),
        block_key(root_key("judge@1"), [1, 2]),
        block_key(root_key("judge@2"), [1, 2]),
    }
    assert len(keys) == 5
    assert all(len(key) == 16 for key in keys)


def test_of_two_equal_blocks_the_first_stays_registered() -> None:
    pool = BlockPool(2)
    first, second = pool.take(2) or []
    for block in (first, second):
        pool.register(block, block_key(ROOT, [1]), ROOT, [1])
    assert pool.find(block_key(ROOT, [1]), ROOT, [1]) == first
    pool.check_integrity([[first, second]])


def test_broken_books_are_noticed() -> None:
    pool = BlockPool(2)
    pool.take(1)
    with pytest.raises(AssertionError, match="holders"):
        pool.check_integrity([])
