"""How long things last when a look at them ends before they do.

The replies that end within a short look are the short ones: their mean is no estimate. What was
still going on then counts as well, as "longer than this".

Source: Kaplan and Meier 1958, "Nonparametric Estimation from Incomplete Observations". Beyond the
longest observation, where that estimate says nothing, an end is as likely at any time as it was on
average before.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf, log


@dataclass(frozen=True, kw_only=True)
class Survival:
    """The share that lasts longer than a length, as a falling staircase."""

    lengths: tuple[float, ...]
    """Where it falls, in order; begins with 0."""
    shares: tuple[float, ...]
    """What is left from there on."""
    areas: tuple[float, ...]
    """Under the staircase up to there."""
    longest: float
    """Of all observations, ended or not."""
    end_rate: float
    """Ends per unit of length, on average; 0 if nothing was seen to end."""

    @classmethod
    def of(cls, ended: Iterable[float], unended: Iterable[float] = ()) -> "Survival":
        """Estimates it.

        Args:
            ended: Lengths of what was seen to its end.
            unended: Lengths at which something was last seen, and had not ended.
        """
        num_ended, num_unended = Counter(ended), Counter(unended)
        num_left = num_ended.total() + num_unended.total()
        lengths, shares, areas = [0.0], [1.0], [0.0]
        for length in sorted(num_ended.keys() | num_unended.keys()):
            if ends := num_ended[length]:
                areas.append(areas[-1] + shares[-1] * (length - lengths[-1]))
                shares.append(shares[-1] * (1 - ends / num_left))
                lengths.append(length)
            num_left -= ends + num_unended[length]
        seen = num_ended + num_unended
        exposure = sum(length * count for length, count in seen.items())
        return cls(
            lengths=tuple(lengths),
            shares=tuple(shares),
            areas=tuple(areas),
            longest=max(seen, default=0.0),
            end_rate=num_ended.total() / exposure if exposure else 0.0,
        )

    def mean_up_to(self, limit: float) -> float:
        """The mean length of what is cut at `limit`."""
        inside = min(limit, self.longest)
        place = bisect_right(self.lengths, inside) - 1
        area = self.areas[place] + self.shares[place] * (inside - self.lengths[place])
        beyond = max(0.0, limit - self.longest)
        if not self.end_rate:
            return area + beyond
        return area + self.shares[-1] * (1 - exp(-self.end_rate * beyond)) / self.end_rate

    def mean_after(self, seen: float, *, limit: float) -> float:
        """How much longer that lasts, on average, which has lasted for `seen`."""
        share = self.shares[bisect_right(self.lengths, seen) - 1]
        return (self.mean_up_to(limit) - self.mean_up_to(seen)) / share if share else 0.0

    def length_at(self, share: float) -> float:
        """The length that this share lasts for, or longer; `share` is above 0 and at most 1."""
        place = bisect_left(self.shares, -share, key=lambda each: -each)
        if place < len(self.shares):
            return self.lengths[place]
        if not self.end_rate:
            return inf
        return self.longest + log(self.shares[-1] / share) / self.end_rate
