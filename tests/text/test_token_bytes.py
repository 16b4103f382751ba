"""Decoding from the tokens' bytes says what transformers says."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers import decoders, models

from martlet.text.incremental import REPLACEMENT
from martlet.text.token_bytes import TokenBytes

UNICODE = st.lists(
    st.sampled_from(["世界", "👩‍👩‍👧", "e\u0301", "é", "\n\n", " ", "  ", "the ", "▁", "龘", "\t"])
    | st.text(max_size=5)
).map("".join)


@settings(deadline=None)
@given(text=UNICODE)
def test_text_decodes_as_transformers_decodes_it(pair, text):
    token_ids = pair.tokenizer.encode(text, add_special_tokens=False)
    expected = pair.inner.decode(list(token_ids), clean_up_tokenization_spaces=False)
    assert pair.tokenizer.decode(token_ids, skip_special_tokens=False) == expected


@settings(deadline=None)
@given(data=st.data(), skip_special_tokens=st.booleans())
def test_any_ids_decode_as_transformers_decodes_them(pair, data, skip_special_tokens):
    # The low ids are single bytes in every family; the highest are not in the vocabulary.
    token_id = st.integers(0, 300) | st.integers(0, pair.tokenizer.num_tokens + 3)
    token_ids = data.draw(st.lists(token_id, max_size=12))
    expected = pair.inner.decode(
        token_ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
    )
    decoded = pair.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
    is_byte_level = pair.inner.backend_tokenizer.decoder.__class__ is decoders.ByteLevel
    if is_byte_level or REPLACEMENT not in expected:
        assert decoded == expected


def test_one_bad_byte_does_not_spoil_its_neighbours(byte_fallback):
    def ids_of(content: bytes) -> list[int]:
        return [byte + 3 for byte in content]

    assert byte_fallback.decode(ids_of("世界".encode() + b"\xe4\xb8")) == "世界" + REPLACEMENT
    assert byte_fallback.decode(ids_of(b"\n\xff\n")) == f"\n{REPLACEMENT}\n"


def test_an_added_token_may_hold_characters_outside_the_byte_alphabet(byte_level):
    assert byte_level.decode(byte_level.encode("<|思考|>", add_special_tokens=False)) == "<|思考|>"


def test_an_unknown_decoder_is_left_to_the_tokenizer():
    backend = BackendTokenizer(models.BPE())
    unread = [
        None,
        decoders.WordPiece(),
        decoders.Metaspace(),
        decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]),
        decoders.Sequence(
            [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 0, 1)],
        ),
    ]
    for decoder in unread:
        backend.decoder = decoder
        assert TokenBytes.of_backend(backend) is None
