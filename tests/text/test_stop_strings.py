"""Stop strings found in pieces of text, against an oracle that sees the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.errors import ParameterError
from martlet.text.stop_strings import StopScanner

SHORT_TEXT = st.text("ab\n", min_size=1, max_size=4)


def first_stop(text: str, stop: list[str], *, after: int = 0) -> tuple[str, str] | None:
    """The text before the stop string that is complete first, and that stop string."""
    for end in range(after + 1, len(text) + 1):
        ending = [candidate for candidate in stop if text[:end].endswith(candidate)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return None


@given(
    pieces=st.lists(st.text("ab\n", max_size=4)),
    stop=st.lists(SHORT_TEXT, min_size=1, max_size=4),
    num_unstopped=st.integers(0, 3),
)
def test_the_outcome_does_not_depend_on_how_the_text_was_cut(pieces, stop, num_unstopped):
    scanner = StopScanner(stop)
    returned = ""
    for index, piece in enumerate(pieces):
        returned += scanner.push(piece, may_stop=index >= num_unstopped)
        if scanner.stop_string is not None:
            break
    returned += scanner.flush()
    text = "".join(pieces)
    after = len("".join(pieces[:num_unstopped]))
    expected = first_stop(text, stop, after=after)
    assert (returned, scanner.stop_string) == (expected or (text, None))


@given(text=st.text("ab\n"), stop=st.lists(SHORT_TEXT, min_size=1, max_size=3))
def test_only_the_beginning_of_a_stop_string_is_held_back(text, stop):
    scanner = StopScanner(stop)
    returned = scanner.push(text, may_stop=False)
    held = text[len(returned) :]
    assert text.startswith(returned)
    beginnings = [candidate[:length] for candidate in stop for length in range(1, len(candidate))]
    assert held == max((item for item in beginnings if text.endswith(item)), key=len, default="")


def test_a_stop_string_over_three_pieces():
    scanner = StopScanner(["</answer>"])
    assert [scanner.push(piece) for piece in ("A</", "ans", "wer>B")] == ["A", "", ""]
    assert scanner.stop_string == "</answer>"
    assert scanner.flush() == ""


def test_what_only_looked_like_a_stop_string_is_returned():
    scanner = StopScanner(["\n\nQ"])
    assert [scanner.push(piece) for piece in ("A\n", "\n", "\n", "B")] == ["A", "", "\n", "\n\nB"]


def test_the_longest_of_two_that_end_together_counts():
    scanner = StopScanner(["b", "ab"])
    assert scanner.push("xab") == "x"
    assert scanner.stop_string == "ab"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ParameterError, match="must not be empty"):
        StopScanner(["a", ""])
