"""The threads of PyTorch, and whose they are."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from martlet.models.openmp import has_threads, release_threads
from martlet.serve.engine_thread import EngineThread
from martlet.serve.meters import Meters
from serve.servers import load_demo

pytestmark = pytest.mark.skipif(
    not has_threads() or not sys.platform.startswith("linux"), reason="no threads to count"
)


def threads_of_process() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


async def start_engine() -> None:
    engine = EngineThread(load_demo(), max_num_queued=1, meters=Meters())
    engine.start()
    await engine.stop()


@pytest.mark.parametrize(
    "leave", [release_threads, lambda: asyncio.run(start_engine())], ids=["asked", "server"]
)
def test_a_thread_that_leaves_computing_to_another_keeps_none(leave: Callable[[], None]) -> None:
    factor = torch.randn(512, 512)
    found: list[set[str]] = []

    def compute_and_leave() -> None:
        torch.set_num_threads(2)
        before = threads_of_process()
        product = factor @ factor
        found.append(threads_of_process() - before)
        leave()
        end = time.monotonic() + 10  # Those that are told to end do so a moment later.
        while found[0] & threads_of_process() and time.monotonic() < end:
            time.sleep(0.01)
        found.append(found[0] & threads_of_process())
        assert torch.equal(factor @ factor, product)

    num_threads = torch.get_num_threads()
    try:
        # A new thread has none yet.
        thread = threading.Thread(target=compute_and_leave)
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(num_threads)
    started, left = found
    assert started
    assert not left
