"""Progress: speed and time left since the first report, and one line where there is no terminal."""

import pytest

from martlet.batch.summary import Progress
from martlet.cli import progress as shown
from martlet.cli.progress import Pace, clock, described, progress_shown


def at(num_questions_done: int, num_tokens: int) -> Progress:
    return Progress(
        num_rows=50,
        num_rows_done=num_questions_done // 2,
        num_questions=100,
        num_questions_done=num_questions_done,
        num_samples_drawn=4 * num_questions_done,
        num_generated_tokens=num_tokens,
    )


def test_what_an_earlier_run_did_is_no_speed() -> None:
    pace = Pace(first=at(40, 0), seconds=10.0)
    assert pace.tokens_per_second(at(60, 3000)) == 300
    assert pace.seconds_left(at(60, 3000)) == pytest.approx(20.0)


def test_no_time_is_promised_before_a_question_is_done() -> None:
    pace = Pace(first=at(0, 0), seconds=10.0)
    assert pace.seconds_left(at(0, 500)) is None
    assert described(at(0, 500), pace) == (
        "rows 0/50 · 0 samples · 50 tokens/s · time left unknown"
    )
    assert Pace(first=at(0, 0), seconds=0.0).tokens_per_second(at(0, 500)) == 0


def test_the_line() -> None:
    line = described(at(60, 30_000), Pace(first=at(0, 0), seconds=60.0))
    assert line == "rows 30/50 · 240 samples · 500 tokens/s · 0:40 left"


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (3729, "1:02:09")]
)
def test_the_clock(seconds: float, written: str) -> None:
    assert clock(seconds) == written


def test_without_a_terminal_a_line_is_written_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 16.0, 17.0, 31.0])
    monkeypatch.setattr(shown, "monotonic", lambda: next(now))
    with progress_shown() as show:
        for num_done in (0, 10, 20, 30):
            show(at(num_done, 100 * num_done))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["rows 5/50", "rows 15/50"]


def test_in_a_terminal_the_bar_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_shown() as show:
        show(at(0, 0))
        show(at(100, 1000))
    assert "samples" in capsys.readouterr().err
