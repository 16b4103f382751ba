"""Which samples of a question are wanted, given those that are there."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from martlet.batch.sample import StoredSample


class SamplePolicy(Protocol):
    """Decides how many samples a question gets. One policy serves one question."""

    def wanted(self, samples: Mapping[int, StoredSample], /) -> Collection[int]:
        """The indices k that should be drawn, or go on being drawn; empty once it is decided.

        Args:
            samples: Samples 0 to m - 1, without a gap, whatever else may have finished: so a
                decision never depends on which sample was faster. The method is called for each
                m in turn and must be a function of `samples` alone.

        Returns:
            Indices from m upward; those below m may be among them and are not drawn again.
        """
        ...


@dataclass(frozen=True)
class DrawAll:
    """Draws a fixed number of samples."""

    num_samples: int

    def wanted(self, samples: Mapping[int, StoredSample], /) -> Collection[int]:
        """All that are not there yet."""
        return range(len(samples), self.num_samples)
