"""Decoding steps recorded once for each number of requests, and replayed.

A step of one token a request is hundreds of small kernels, which Python and the driver start slower
than the device runs them. A recorded step is started by one call. It reads its inputs where it read
them when it was recorded (`StepBuffer`), so a step is padded to the next size of a ladder; the rows
too many are no tokens: nothing is written, read or drawn for them.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.engine.cuda.batch import PackedStep
from martlet.engine.cuda.step_buffer import StepBuffer
from martlet.engine.cuda.work import NUM_FIELDS, WorkShape

logger = logging.getLogger(__name__)

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]
"""Makes of a computation one that does the same again, at the same places."""


def graph_ladder(max_num_requests: int) -> tuple[int, ...]:
    """The numbers of decoding requests that steps are padded to."""
    ladder = [1, 2, 4, *range(8, 32, 8), *range(32, 128, 16), *range(128, 512, 64)]
    ladder += range(512, max_num_requests + 128, 128)
    below = [size for size in ladder if size < max_num_requests]
    return (*below, max_num_requests)


class GraphRecorder:
    """Records what computations do on the current device.

    All graphs use the same memory in turn: only one of them runs at a time.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        """Records a computation.

        It runs once before, on a stream of its own: libraries and kernels set themselves up at
        their first call, which no graph may hold.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = compute()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def repeat(compute: Compute) -> Compute:
    """Records nothing: a step is computed anew each time, from where a graph would read it."""
    compute()
    return compute


@dataclass(frozen=True)
class _Recorded:
    buffer: StepBuffer
    replay: Compute


class DecodeGraphs:
    """Runs decoding steps as recorded graphs.

    Args:
        sizes: Numbers of requests, ascending.
        shape: How work items are cut.
        max_blocks: Of one request.
        device: The model's.
        record: A `GraphRecorder`, or `repeat` where there is no device.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        shape: WorkShape,
        max_blocks: int,
        device: torch.device,
        record: Record,
    ) -> None:
        self._sizes = tuple(sizes)
        self._shape = shape
        self._max_blocks = max_blocks
        self._device = device
        self._record = record
        self._recorded: dict[tuple[int, bool], _Recorded] = {}

    def run(self, packed: PackedStep, compute: Callable[[StepBuffer], Tensor]) -> Tensor | None:
        """Runs a step.

        Args:
            compute: What is recorded: the logits of all rows of a buffer, `[size, V]`.

        Returns:
            The logits of the step, `[N, V]`, overwritten by the next; None where it has no graph.
        """
        num_rows = len(packed.chunks)
        size = next((size for size in self._sizes if size >= num_rows), None)
        if size is None or not packed.only_decodes:
            return None
        recorded = self._recorded.get((size, packed.has_wide))
        try:
            recorded = recorded or self._record_step(size, packed, compute)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("steps are run without CUDA graphs: %s", str(error).splitlines()[0])
            self._sizes = ()
            return None
        recorded.buffer.load(packed.arrays)
        return recorded.replay()[:num_rows]

    def _record_step(
        self, size: int, packed: PackedStep, compute: Callable[[StepBuffer], Tensor]
    ) -> _Recorded:
        buffer = StepBuffer(self._shapes(size, has_wide=packed.has_wide), self._device)
        buffer.load(packed.arrays)
        recorded = _Recorded(buffer, self._record(lambda: compute(buffer)))
        self._recorded[size, packed.has_wide] = recorded
        return recorded

    def _shapes(self, size: int, *, has_wide: bool) -> dict[str, tuple[int, ...]]:
        rows = dict.fromkeys(
            ("input_ids", "position_ids", "slots", "logit_rows", "first_parts", "num_parts"),
            (size,),
        )
        num_wide = self._shape.max_wide(size) if has_wide else 0
        return {
            **rows,
            "narrow": (self._shape.max_narrow(size), NUM_FIELDS),
            "wide": (num_wide, NUM_FIELDS),
            "block_ids": (size * self._max_blocks,),
        }
