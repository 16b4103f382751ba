"""Streaming through a tokenizer of which only `decode` is known."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.text.incremental import WindowDecoder

TEXT = st.lists(st.sampled_from(["世界龘", "👩‍👩‍👧", "é", "\n", " the", "a"]), max_size=20).map(
    "".join
)


class CountingDecode:
    """Decodes bytes as tokens, one U+FFFD for each bad one, and counts its work."""

    def __init__(self) -> None:
        self.num_decoded = 0

    def __call__(self, token_ids: Sequence[int]) -> str:
        self.num_decoded += len(token_ids)
        text, rest = "", bytes(token_ids)
        while rest:
            for length in range(1, 5):
                try:
                    text += rest[:length].decode()
                except UnicodeDecodeError:
                    continue
                rest = rest[length:]
                break
            else:
                text, rest = text + "\ufffd", rest[1:]
        return text


@given(text=TEXT)
def test_no_half_character_comes_out(text):
    decoder = WindowDecoder(CountingDecode(), skipped_ids=())
    returned = ""
    for index, byte in enumerate(text.encode()):
        returned += decoder.push(byte)
        assert returned == text.encode()[: index + 1].decode(errors="ignore")
    assert decoder.flush() == ""


@settings(deadline=None)
@given(text=TEXT)
def test_a_run_of_bytes_that_spoils_as_a_whole_waits_for_its_end(load_pair, text):
    pair = load_pair("byte-fallback")
    decoder = WindowDecoder(pair.inner.decode, skipped_ids=())
    token_ids = pair.tokenizer.encode(text, add_special_tokens=False)
    returned = ""
    for token_id in token_ids:
        returned += decoder.push(token_id)
        assert text.startswith(returned)
    assert returned + decoder.flush() == text


def test_the_cost_of_a_token_does_not_grow():
    decode = CountingDecode()
    decoder = WindowDecoder(decode, skipped_ids=())
    for byte in "世界 and so on\n".encode() * 100:
        decoder.push(byte)
    assert decode.num_decoded < 20 * 1800


def test_skipped_tokens_add_nothing():
    decoder = WindowDecoder(CountingDecode(), skipped_ids={0})
    assert [decoder.push(token_id) for token_id in (97, 0, 98)] == ["a", "", "b"]


def test_tokens_without_text_do_not_become_the_context(load_pair):
    inner = load_pair("word-piece").inner
    letter, unknown = inner.convert_tokens_to_ids("a"), len(inner) + 1
    decoder = WindowDecoder(inner.decode, skipped_ids=())
    pieces = [decoder.push(token_id) for token_id in (letter, *[unknown] * 100, letter)]
    assert "".join(pieces) == "a a"


def test_endless_garbage_is_bounded():
    decode = CountingDecode()
    decoder = WindowDecoder(decode, skipped_ids=())
    returned = "".join(decoder.push(0xFF) for _ in range(1000)) + decoder.flush()
    assert returned == "\ufffd" * 1000
    assert decode.num_decoded < 80 * 1000
