"""How many requests go at once, against servers that are simulated to the second."""

from dataclasses import dataclass

import pytest

from martlet.backends.openai.pace import Pace, duration_s
from martlet.backends.openai.refusals import backoff_s, retry_after_s


@dataclass
class Simulated:
    """A server that computes up to `lanes` requests at once, each in a second."""

    lanes: int
    now: float = 0.0

    def answer(self, pace: Pace, num_replies: int) -> None:
        for _ in range(num_replies):
            self.now += 1 / min(pace.window, self.lanes)
            pace.note_success(self.now, num_under_way=pace.window)


@pytest.mark.parametrize("lanes", [8, 20, 64, 1000])
def test_the_window_grows_while_replies_come_faster_and_no_further(lanes: int) -> None:
    pace, server = Pace(most=128), Simulated(lanes)
    server.answer(pace, 8000)
    assert min(lanes, 128) <= pace.window <= min(lanes + 16, 128)


def test_a_429_halves_it_once_for_all_that_were_under_way() -> None:
    pace, server = Pace(most=128), Simulated(64)
    server.answer(pace, 4000)
    before, generation = pace.window, pace.generation
    for _ in range(before):
        pace.note_throttled(server.now, generation=generation)
    assert pace.window == before // 2
    server.answer(pace, 4000)
    assert pace.window >= 56


def test_a_limit_that_answers_429_is_approached_from_below() -> None:
    """More than 24 at once are refused: the window saws about that, and never sticks at 1."""
    pace, server, seen = Pace(most=128), Simulated(1000), []
    for _ in range(2000):
        if pace.window > 24:
            pace.note_throttled(server.now, generation=pace.generation)
        server.answer(pace, 1)
        seen.append(pace.window)
    assert max(seen[500:]) <= 32
    assert sum(seen[500:]) / len(seen[500:]) >= 14


def test_a_fixed_pace_stays() -> None:
    pace, server = Pace(most=16, is_fixed=True), Simulated(4)
    pace.note_throttled(0, generation=0, retry_after_s=2)
    server.answer(pace, 500)
    assert pace.window == 16


def test_the_server_says_when_it_takes_more() -> None:
    pace = Pace(most=8)
    pace.note_throttled(100, generation=0, retry_after_s=3)
    assert pace.delay_s(101) == 2
    pace.note_limits(
        101, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
    )
    pace.note_limits(101, {"x-ratelimit-remaining-tokens": "512", "x-ratelimit-reset-tokens": "1h"})
    assert pace.delay_s(101) == 360
    assert pace.delay_s(461) == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7), ("soon", None)],
)
def test_durations_are_read(given: str, seconds: float | None) -> None:
    assert duration_s(given) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90),
        ({"retry-after": "2", "retry-after-ms": "150"}, 0.15),
        ({"retry-after": "later"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=10) == seconds


def test_waits_double_up_to_half_a_minute() -> None:
    assert [backoff_s(n, 1) for n in (1, 2, 3, 4, 7, 40)] == [0.5, 1, 2, 4, 30, 30]
    assert backoff_s(5, 0) == 0
