"""Streaming never takes text back, and ends with what a full decode says."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from martlet.errors import ParameterError
from martlet.text.incremental import REPLACEMENT
from martlet.text.stream import StreamDecoder
from martlet.text.tokenizer import Tokenizer

UNICODE = st.lists(
    st.sampled_from(
        ["世界", "👩‍👩‍👧", "e\u0301", "é", "\n\n", " ", "the ", "龘", "ab", "答案是：A"]
    )
    | st.text(max_size=4),
    max_size=8,
).map("".join)


def certain_text(tokenizer: Tokenizer, token_ids: Sequence[int], **options: bool) -> str:
    """What a full decode of these tokens says, less the bytes that may still become a character."""
    return tokenizer.decode(token_ids, **options).rstrip(REPLACEMENT)


def expected_outcome(
    tokenizer: Tokenizer, token_ids: Sequence[int], stop: Sequence[str], min_tokens: int
) -> tuple[str, str | None, int]:
    """Look at all of the text after each token: the reply, its stop string, and at which token."""
    num_ignored_chars = 0
    for step in range(1, len(token_ids) + 1):
        text = certain_text(tokenizer, token_ids[:step])
        if step < min_tokens:
            num_ignored_chars = len(text)
            continue
        for end in range(num_ignored_chars + 1, len(text) + 1):
            complete = [candidate for candidate in stop if text[:end].endswith(candidate)]
            if complete:
                longest = max(complete, key=len)
                return text[: end - len(longest)], longest, step
    return tokenizer.decode(token_ids), None, len(token_ids) + 1


@settings(deadline=None)
@given(text=UNICODE, skip_special_tokens=st.booleans())
def test_each_piece_comes_as_soon_as_it_is_certain(pair, text, skip_special_tokens):
    assume(REPLACEMENT not in text)
    token_ids = pair.tokenizer.encode(text, add_special_tokens=True)
    decoder = StreamDecoder(pair.tokenizer, skip_special_tokens=skip_special_tokens)
    for index, token_id in enumerate(token_ids):
        decoder.push(token_id)
        seen = token_ids[: index + 1]
        assert decoder.text == certain_text(
            pair.tokenizer, seen, skip_special_tokens=skip_special_tokens
        )
    decoder.flush()
    assert decoder.text == pair.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)


@settings(deadline=None)
@given(data=st.data(), skip_special_tokens=st.booleans())
def test_any_ids_stream_as_they_decode(pair, data, skip_special_tokens):
    token_id = st.integers(0, 300) | st.integers(0, pair.tokenizer.num_tokens + 3)
    token_ids = data.draw(st.lists(token_id, max_size=40))
    decoder = StreamDecoder(pair.tokenizer, skip_special_tokens=skip_special_tokens)
    pieces = [decoder.push(token_id) for token_id in token_ids]
    full = pair.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
    assert full.startswith("".join(pieces))
    assert "".join(pieces) + decoder.flush() == full == decoder.text


@settings(deadline=None)
@given(data=st.data(), text=UNICODE, min_tokens=st.integers(0, 6))
def test_stop_strings_end_the_reply_where_a_full_decode_at_each_step_would(
    pair, data, text, min_tokens
):
    token_ids = pair.tokenizer.encode(text, add_special_tokens=False)
    whole = pair.tokenizer.decode(token_ids)
    assume(REPLACEMENT not in whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = [whole[start : start + data.draw(st.integers(1, 6))] or "x", "答案", "b\n"]
    expected, expected_stop, expected_step = expected_outcome(
        pair.tokenizer, token_ids, stop, min_tokens
    )

    decoder = StreamDecoder(pair.tokenizer, stop=stop, min_tokens=min_tokens)
    for step, token_id in enumerate(token_ids, start=1):
        decoder.push(token_id)
        assert expected.startswith(decoder.text)
        assert decoder.stop_string == (expected_stop if step >= expected_step else None)
    decoder.flush()
    assert (decoder.text, decoder.stop_string) == (expected, expected_stop)


def test_half_a_character_waits(byte_level):
    token_ids = byte_level.encode("a👧b", add_special_tokens=False)
    decoder = StreamDecoder(byte_level)
    assert [decoder.push(token_id) for token_id in token_ids] == ["a", "", "", "", "👧", "b"]


def test_an_incomplete_character_ends_as_a_replacement(byte_level):
    decoder = StreamDecoder(byte_level)
    for token_id in byte_level.encode("a世", add_special_tokens=False)[:-1]:
        decoder.push(token_id)
    assert decoder.text == "a"
    assert decoder.flush() == REPLACEMENT
    assert decoder.flush() == ""
    assert decoder.text == f"a{REPLACEMENT}"


def test_a_newline_in_a_byte_token_stops_at_once(byte_fallback):
    decoder = StreamDecoder(byte_fallback, stop=["\n"])
    assert [
        decoder.push(item) for item in byte_fallback.encode("A\n", add_special_tokens=False)
    ] == [
        "",
        "A",
        "",
    ]
    assert decoder.stop_string == "\n"


def test_the_space_at_the_start_of_the_reply_goes_as_in_a_full_decode(byte_fallback):
    token_ids = byte_fallback.encode("the the", add_special_tokens=False)
    decoder = StreamDecoder(byte_fallback)
    for token_id in token_ids:
        decoder.push(token_id)
    assert decoder.text == "the the"


def test_nothing_is_text_after_a_stop_string(byte_level):
    decoder = StreamDecoder(byte_level, stop=["b"])
    pieces = [decoder.push(item) for item in byte_level.encode("abcd", add_special_tokens=False)]
    assert pieces == ["a", "", "", ""]
    assert decoder.flush() == ""
    assert decoder.text == "a"


def test_a_stop_string_that_began_before_min_tokens_counts_when_it_ends_after(byte_level):
    def text_of(min_tokens: int) -> str:
        decoder = StreamDecoder(byte_level, stop=["bc"], min_tokens=min_tokens)
        for token_id in byte_level.encode("abcbc", add_special_tokens=False):
            decoder.push(token_id)
        decoder.flush()
        return decoder.text

    assert [text_of(count) for count in (0, 3, 4, 5, 6)] == ["a", "a", "abc", "abc", "abcbc"]


def test_a_special_token_is_no_stop_string_while_it_is_skipped(byte_level):
    token_ids = byte_level.encode("a<|im_end|>", add_special_tokens=False)
    for skip_special_tokens, found in ((True, None), (False, "<|im_end|>")):
        decoder = StreamDecoder(
            byte_level, stop=["<|im_end|>"], skip_special_tokens=skip_special_tokens
        )
        for token_id in token_ids:
            decoder.push(token_id)
        assert (decoder.text, decoder.stop_string) == ("a", found)


def test_an_empty_stop_string_is_refused(byte_level):
    with pytest.raises(ParameterError):
        StreamDecoder(byte_level, stop=[""])
