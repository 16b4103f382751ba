"""Works and traces: the same ids for everybody, sizes as told, and what cannot be is refused."""

from pathlib import Path

import pytest

from martlet.bench.trace import read_trace
from martlet.bench.works import MAKERS, Sizes, make_works, mixed_and_equal
from martlet.errors import NotFoundError, ParameterError, RowError

SIZES = Sizes(vocab_size=740, max_context_tokens=512)


def test_the_standard_works_have_their_sizes() -> None:
    (alone,), (batch,), (vote,) = (make_works(name, SIZES) for name in ("alone", "batch", "vote"))
    assert [len(alone.asks), len(batch.asks), len(vote.asks)] == [1, 64, 32]
    assert vote.num_requests == 96
    assert vote.longest == 512
    first, second = vote.asks[0].prompt_ids, vote.asks[1].prompt_ids
    assert first[:256] == second[:256]
    assert first[256:] != second[256:]
    assert all(0 <= token_id < 740 for ask in batch.asks for token_id in ask.prompt_ids)


def test_the_same_ids_each_time() -> None:
    for name in MAKERS:
        assert make_works(name, SIZES) == make_works(name, SIZES)


def test_a_quick_look_takes_a_quarter() -> None:
    (quick,) = make_works("batch", Sizes(vocab_size=740, max_context_tokens=512, is_quick=True))
    assert len(quick.asks) == 16
    assert {ask.num_new_tokens for ask in quick.asks} == {32}


def test_series_end_at_the_models_context() -> None:
    lengths = [len(work.asks[0].prompt_ids) for work in make_works("contexts", SIZES)]
    assert lengths == [128]
    assert [len(work.asks) for work in make_works("requests", SIZES)][-1] == 256


def test_a_work_beyond_the_context_is_refused() -> None:
    with pytest.raises(ParameterError, match="384 tokens, and the model allows 300"):
        make_works("batch", Sizes(vocab_size=740, max_context_tokens=300))


def test_mixed_and_equal_have_as_many_tokens() -> None:
    lengths = [(7, 100), (200, 3), (50, 50), (1, 1)]
    mixed, equal = mixed_and_equal(lengths, SIZES)
    assert [(len(ask.prompt_ids), ask.num_new_tokens) for ask in mixed.asks] == lengths
    totals = [
        (sum(len(ask.prompt_ids) for ask in work.asks), sum(a.num_new_tokens for a in work.asks))
        for work in (mixed, equal)
    ]
    assert totals == [(258, 154), (258, 154)]
    assert {len(ask.prompt_ids) for ask in equal.asks} == {64, 65}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "num_prefill_tokens,num_decode_tokens\n100,300\n10,20\n5,5\n"),
        ("t.jsonl", '{"prompt_tokens": 100, "completion_tokens": 300}\n'
         '{"input_tokens": 10, "output_tokens": 20}\n{"prompt_tokens": 5, "output_tokens": 5}\n'),
    ],
)  # fmt: skip
def test_a_trace_is_shortened_alike(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    trace = read_trace(path, num_requests=2, longest=200)
    assert trace.scale == 0.5
    assert trace.lengths == [(50, 150), (5, 10)]


def test_a_bad_trace_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("num_prefill_tokens,num_decode_tokens\n100,300\n10,none\n")
    with pytest.raises(RowError, match=r"t\.csv, line 2: a request needs one of num_decode_tokens"):
        read_trace(path, num_requests=9, longest=1000)
    (tmp_path / "t.jsonl").write_text('{"prompt_tokens": 1, "completion_tokens": 1}\nfour\n')
    with pytest.raises(RowError, match="line 2: it is no JSON"):
        read_trace(tmp_path / "t.jsonl", num_requests=9, longest=1000)
    (tmp_path / "empty.csv").write_text("num_prefill_tokens,num_decode_tokens\n")
    with pytest.raises(NotFoundError, match="no request is in it"):
        read_trace(tmp_path / "empty.csv", num_requests=9, longest=1000)
