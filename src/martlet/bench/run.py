"""The rounds of a bench: contestants take turns, each in a process of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from martlet.bench.contestant import OWN, Contestant
from martlet.bench.cost import Cost, ModelCost
from martlet.bench.figure import Figure
from martlet.bench.limits import measure_limits
from martlet.bench.peers.protocol import Job, Work
from martlet.bench.process import conversation
from martlet.errors import EngineError
from martlet.models.folder import ModelFolder
from martlet.models.linear.compact import BYTES_A_VALUE, multiplies_compact


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A figure, and whose it is."""

    round: int
    """From 1."""
    contestant: str
    version: str
    """Of its engine."""
    work: Work
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is to be measured."""

    folder: ModelFolder
    works: list[Work]
    contestants: list[Contestant]
    num_rounds: int
    dtype: torch.dtype

    @property
    def num_measurements(self) -> int:
        return self.num_rounds * len(self.contestants) * len(self.works)

    def measure(self, scratch: Path, report: Callable[[str], None]) -> Iterator[Measurement]:
        """Measures round by round, every contestant all works, one process at a time.

        Args:
            scratch: A folder for converted models and for what the contestants write.
            report: Told what is being done, in words.

        Raises:
            EngineError: If a contestant fails, or does not do the work as it is.
        """
        for number in range(1, self.num_rounds + 1):
            for contestant in self.contestants:
                report(f"round {number}: {contestant.name} is starting")
                yield from self._one_turn(number, contestant, scratch, report)

    def _one_turn(
        self, number: int, contestant: Contestant, scratch: Path, report: Callable[[str], None]
    ) -> Iterator[Measurement]:
        own = scratch / contestant.name.replace(" ", "-")
        own.mkdir(exist_ok=True)
        with conversation(contestant, self._job(contestant, own), scratch=own) as peer:
            for index, work in enumerate(self.works):
                report(f"round {number}: {contestant.name}, {work.name}")
                with peer.paused():
                    before = measure_limits(self._product_dtype(contestant))
                measured = peer.measure(index)
                with peer.paused():
                    after = measure_limits(self._product_dtype(contestant))
                _check_length(contestant, work, measured["num_tokens"])
                figure = Figure(
                    **measured,
                    ready_s=peer.ready_s,
                    limits=before.between(after),
                    cost=self._cost(contestant, work),
                )
                yield Measurement(
                    round=number,
                    contestant=contestant.name,
                    version=peer.version,
                    work=work,
                    figure=figure,
                )

    def _product_dtype(self, contestant: Contestant) -> torch.dtype:
        return self.dtype if contestant.weights == "stored" else torch.int8

    def _cost(self, contestant: Contestant, work: Work) -> Cost | None:
        is_own_bf16 = contestant.engine == OWN and self.dtype == torch.bfloat16
        stored_size = BYTES_A_VALUE if is_own_bf16 and multiplies_compact() else None
        model = ModelCost.of(self.folder, self.dtype, contestant.weights, stored_size=stored_size)
        return None if model is None else Cost.of(work, model)

    def _job(self, contestant: Contestant, scratch: Path) -> Job:
        return Job(
            model=str(self.folder.path.absolute()),
            converted=str(scratch.absolute() / "converted"),
            dtype=str(self.dtype).removeprefix("torch."),
            weights=contestant.weights,
            num_threads=torch.get_num_threads(),
            works=self.works,
        )


def _check_length(contestant: Contestant, work: Work, num_tokens: int) -> None:
    """Nobody may be fast by saying less."""
    wanted = work.num_samples * sum(ask.num_new_tokens for ask in work.asks)
    if num_tokens > wanted or (num_tokens < wanted and not work.stop_ids):
        raise EngineError(
            f"{contestant.name} drew {num_tokens:,} tokens for {work.name}, and {wanted:,} were "
            "asked for: it does not do the same work"
        )
