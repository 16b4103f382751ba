"""How many requests a server gets at once, found by watching it, and when it wants none.

Knows no network and no clock: whoever uses it says what happened and what time it is.
"""

import re
from collections.abc import Mapping

_STEP = 8
"""Of the window, which begins with one."""
_LEAST_ROUND = 16
"""Replies that a rate is measured over, at least."""
_WORTH = 0.3
"""A larger window stays if the rate grew by this part of what the window did."""
_PATIENCE = 3
"""Rounds after which a larger window is tried once more."""
LONGEST_WAIT_S = 600.0
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h|d)")
_UNIT_TO_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Pace:
    """The number of requests under way: additive increase, multiplicative decrease.

    Like TCP's congestion control (Chiu and Jain, "Analysis of the increase and decrease algorithms
    for congestion avoidance", 1989), with one more reason not to increase: that replies do not
    come any faster.

    Args:
        most: The window never exceeds this.
        is_fixed: Whether it is always this: for a server that schedules for itself alone.
    """

    def __init__(self, *, most: int, is_fixed: bool = False) -> None:
        self._most = most
        self._is_fixed = is_fixed
        self._num_cuts = 0
        self._not_before = 0.0
        self.window = most if is_fixed else min(_STEP, most)
        self._round_start: float | None = None
        self._num_done = 0
        self._was_full = True
        self._added = 0  # to the window, on trial
        self._rate = 0.0  # before that
        self._num_rounds_until_trial = 1

    def delay_s(self, now: float) -> float:
        """Seconds until the server takes requests again; 0 mostly."""
        return max(0.0, self._not_before - now)

    @property
    def generation(self) -> int:
        """Changes when the window is cut; what started before a cut does not cut it again."""
        return self._num_cuts

    def note_success(self, now: float, *, num_under_way: int) -> None:
        """A request ended well.

        Args:
            now: The time in seconds.
            num_under_way: Requests that the server had, this one included.
        """
        if self._round_start is None:
            self._start_round(now)
            return
        self._num_done += 1
        self._was_full = self._was_full and num_under_way >= self.window
        if self._num_done >= max(self.window, _LEAST_ROUND):
            self._end_round(now)

    def note_fault(self) -> None:
        """A request failed by itself: no reason for fewer, and none for more."""
        self._start_round(None)

    def note_throttled(
        self, now: float, *, generation: int, retry_after_s: float | None = None
    ) -> None:
        """The server wants less, or is away.

        Args:
            now: The time in seconds.
            generation: Of the time when the request started.
            retry_after_s: What the server asks to wait.
        """
        if retry_after_s is not None:
            self.hold(now, retry_after_s)
        if generation != self._num_cuts:
            return
        self._num_cuts += 1
        if not self._is_fixed:
            self.window = max(1, self.window // 2)
        self._added, self._num_rounds_until_trial = 0, 1
        self._start_round(None)

    def hold(self, now: float, seconds: float) -> None:
        """Nothing starts for so long."""
        self._not_before = max(self._not_before, now + min(seconds, LONGEST_WAIT_S))

    def note_limits(self, now: float, headers: Mapping[str, str]) -> None:
        """Takes `x-ratelimit-remaining-*` and `-reset-*` into account, as OpenAI sends them."""
        for what in ("requests", "tokens"):
            remaining = headers.get(f"x-ratelimit-remaining-{what}")
            reset_s = duration_s(headers.get(f"x-ratelimit-reset-{what}", ""))
            if remaining is not None and remaining.strip() == "0" and reset_s is not None:
                self.hold(now, reset_s)

    def _start_round(self, now: float | None) -> None:
        self._round_start = now
        self._num_done = 0
        self._was_full = True

    def _end_round(self, now: float) -> None:
        seconds = now - (self._round_start or now)
        rate = self._num_done / seconds if seconds > 0 else float("inf")
        if self._was_full and not self._is_fixed:
            self._judge(rate)
        self._start_round(now)

    def _judge(self, rate: float) -> None:
        """Keeps the window, widens it for a trial, or takes back what a trial did not pay for."""
        if self._added:
            growth = self._added / (self.window - self._added)
            if rate < self._rate * (1 + _WORTH * growth):
                self.window -= self._added
                self._added, self._num_rounds_until_trial = 0, _PATIENCE
                return
        self._rate = rate
        self._num_rounds_until_trial -= 1
        if self._added or self._num_rounds_until_trial <= 0:
            self._added = min(_STEP, self._most - self.window)
            self.window += self._added
            self._num_rounds_until_trial = _PATIENCE


def duration_s(given: str) -> float | None:
    """Seconds of `1s`, `6m0s` or `20ms`; a bare number counts seconds. None for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", given):
        return float(given)
    parts = list(_DURATION.finditer(given))
    if not parts or "".join(part[0] for part in parts) != given:
        return None
    return sum(float(part["number"]) * _UNIT_TO_SECONDS[part["unit"]] for part in parts)
