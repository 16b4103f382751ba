"""How a GPU's memory is shared out, as arithmetic."""

from martlet.engine.cuda.warm_up import DeviceMemory

GIB = 1 << 30


def test_the_pool_leaves_the_step_and_the_share_of_others() -> None:
    memory = DeviceMemory(total_bytes=100 * GIB, free_bytes=70 * GIB, step_bytes=5 * GIB)
    assert abs(memory.pool_bytes(0.9) - 55 * GIB) < GIB / 1000


def test_what_another_process_holds_is_not_counted_twice() -> None:
    """Two engines with a share of 0.5 and 1: the second gets what the first has left."""
    memory = DeviceMemory(total_bytes=100 * GIB, free_bytes=50 * GIB, step_bytes=2 * GIB)
    assert memory.pool_bytes(1) == 48 * GIB
    assert memory.pool_bytes(0.4) == 0
