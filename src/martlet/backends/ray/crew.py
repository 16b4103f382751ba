"""The engines of a run: one in every seat of the cluster, for as long as the run lasts."""

import logging
import sys
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

from tqdm import tqdm

from martlet.backends.ray.cluster import Seat, ready_of
from martlet.backends.ray.remote import RemoteEngine
from martlet.backends.ray.worker import EngineFacts
from martlet.errors import EngineError, MartletError, ParityError, ResourceError

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_CLOSE_TIMEOUT_S = 30.0
_MOST_LOSSES = 3
"""A seat that lost as many engines gets no other."""


class Crew:
    """Starts engines where there is room, drops those that are gone, and takes in late ones.

    Args:
        seats: The seats that the cluster has now.
        start: Starts an engine in a seat.
        room_timeout_s: How long a run without engines waits for a node whose cores or GPUs other
            work holds.
    """

    def __init__(
        self,
        seats: Callable[[], list[Seat]],
        start: Callable[[Seat], RemoteEngine],
        *,
        room_timeout_s: float = 60.0,
    ) -> None:
        self.engines: list[RemoteEngine] = []
        """Those that are loaded."""
        self._seats = seats
        self._start = start
        self._room_timeout_s = room_timeout_s
        self._starting: list[RemoteEngine] = []
        self._facts: EngineFacts | None = None
        self._num_losses = Counter[Seat]()
        self._last_loss = EngineError("the cluster has no room for an engine")
        self._next_look = 0.0
        self._last_manned = 0.0

    @property
    def facts(self) -> EngineFacts:
        """What the first engine told of itself; all others agree."""
        assert self._facts is not None, "the crew is assembled"
        return self._facts

    def assemble(self) -> None:
        """Starts an engine in every seat and waits for them, and says on stderr how many there are.

        Raises:
            MartletError: If an engine refuses the model.
            ParityError: If two engines would not draw the same.
            ResourceError: If no node has room.
            EngineError: If every engine is gone.
        """
        self._fill_seats()
        started = self._last_manned = monotonic()
        layout = "{desc}: {n_fmt} of {total_fmt} engines are loaded, {elapsed}"
        with tqdm(
            total=len(self._starting), bar_format=layout, desc="Ray", disable=None, leave=False
        ) as bar:
            while self._awaited(monotonic() - started):
                self._admit_loaded(timeout_s=0.5, is_strict=True)
                bar.n = len(self.engines)
                bar.refresh()
        if not self.engines:
            raise self._no_room() if self._starting else self._last_loss
        self._tell_size()

    def look_around(self) -> None:
        """Every few seconds: fills seats that are free, takes in what is loaded, and says so.

        Raises:
            EngineError: If no engine is left and none can be started.
            ResourceError: If no engine is left and other work has taken their room.
        """
        if self.engines:
            self._last_manned = monotonic()
            if self._last_manned < self._next_look:
                return
        self._fill_seats()
        before = list(self.engines)
        self._admit_loaded(timeout_s=0 if self.engines else _LOOK_EVERY_S, is_strict=False)
        if self.engines != before:
            self._tell_size()
        if self.engines or self._awaited(monotonic() - self._last_manned):
            return
        if self._starting:
            raise self._no_room()
        raise EngineError(f"no engine of the cluster is left: {self._last_loss}")

    def lose(self, engine: RemoteEngine, error: MartletError) -> None:
        """Drops an engine that failed; its seat is filled again at the next look."""
        logger.warning("node %s lost its engine: %s", engine.seat.node, error)
        self._drop(engine, EngineError(str(error)))

    def close(self) -> None:
        """Closes every backend, then ends the actors."""
        everyone = [*self.engines, *self._starting]
        pending: list[Any] = [engine.close() for engine in self.engines]
        deadline = monotonic() + _CLOSE_TIMEOUT_S
        while pending and (left := deadline - monotonic()) > 0:
            done = set(ready_of(pending, timeout_s=left))
            pending = [call for call in pending if call not in done]
        for engine in everyone:
            engine.end()
        self.engines, self._starting = [], []

    def _tell_size(self) -> None:
        num_nodes = len({engine.seat.node_id for engine in self.engines})
        print(f"Ray: engines {len(self.engines)}, nodes {num_nodes}", file=sys.stderr)

    def _no_room(self) -> ResourceError:
        return ResourceError(
            f"no node of the cluster had room for an engine in {self._room_timeout_s:.0f} s: other "
            "work holds its cores or GPUs; see: ray status"
        )

    def _awaited(self, seconds: float) -> bool:
        is_early = seconds < self._room_timeout_s
        return any(is_early or each.has_arrived for each in self._starting)

    def _fill_seats(self) -> None:
        taken = {engine.seat for engine in (*self.engines, *self._starting)}
        for seat in self._seats():
            if seat not in taken and self._num_losses[seat] < _MOST_LOSSES:
                self._starting.append(self._start(seat))
        self._next_look = monotonic() + _LOOK_EVERY_S

    def _admit_loaded(self, *, timeout_s: float, is_strict: bool) -> None:
        loaded = ready_of([engine.loading for engine in self._starting], timeout_s=timeout_s)
        for engine in [each for each in self._starting if each.loading in loaded]:
            try:
                self._admit(engine)
            except MartletError as error:
                if is_strict and not isinstance(error, EngineError):
                    error.args = (f"node {engine.seat.node}: {error}",)
                    raise
                self.lose(engine, error)

    def _admit(self, engine: RemoteEngine) -> None:
        facts = engine.facts()
        if self._facts is None:
            self._facts = facts
            for remark in facts.remarks:
                logger.warning("%s", remark)
        elif different := self._facts.differences(facts):
            raise ParityError(f"it would not draw what the others do: {'; '.join(different)}")
        self._starting.remove(engine)
        self.engines.append(engine)

    def _drop(self, engine: RemoteEngine, error: EngineError) -> None:
        engine.end()
        self._num_losses[engine.seat] += 1
        self._last_loss = error
        for group in (self.engines, self._starting):
            if engine in group:
                group.remove(engine)
