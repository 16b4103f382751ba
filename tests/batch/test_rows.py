"""Files into rows: every format, true line numbers, and one clear error for each bad file."""

import io
import json
import sys

import pytest

from martlet.batch.rows import read_rows
from martlet.errors import InputError, MissingExtraError, NotFoundError, RowError


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(str(path)).rows


def numbered(rows):
    return [(row.number, dict(row.data)) for row in rows]


def test_jsonl_skips_blank_lines_and_counts_them(tmp_path) -> None:
    rows = read(tmp_path, "a.jsonl", '\ufeff{"prompt": "x"}\r\n\n  \n{"prompt": "y\u2028z"}')
    assert numbered(rows) == [(1, {"prompt": "x"}), (4, {"prompt": "y\u2028z"})]


def test_json_counts_places_in_the_list(tmp_path) -> None:
    rows = read(tmp_path, "a.json", '[{"prompt": "x"},\n\n {"prompt": "y"}]')
    assert numbered(rows) == [(1, {"prompt": "x"}), (2, {"prompt": "y"})]


def test_csv_counts_lines_of_cells_that_span_several(tmp_path) -> None:
    text = '\ufeffquery,history\n"a\nb",\n\nc,"[[""q"", ""a""]]"\n'
    assert numbered(read(tmp_path, "a.csv", text)) == [
        (2, {"query": "a\nb", "history": ""}),
        (5, {"query": "c", "history": [["q", "a"]]}),
    ]


def test_plain_lines_are_prompts(tmp_path) -> None:
    rows = read(tmp_path, "a.txt", " x \n\ny\n")
    assert numbered(rows) == [(1, {"prompt": " x "}), (3, {"prompt": "y"})]


def test_parquet_gives_nested_values(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    data = [{"query": "x", "history": [["q", "a"]]}, {"query": "y", "history": None}]
    parquet.write_table(pyarrow.Table.from_pylist(data), tmp_path / "a.parquet")
    assert numbered(read_rows(str(tmp_path / "a.parquet")).rows) == [(1, data[0]), (2, data[1])]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"martlet\[parquet\]"):
        read(tmp_path, "a.parquet", b"PAR1")


def test_a_broken_parquet_file_is_refused(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=r"a\.parquet is not a readable parquet file"):
        read(tmp_path, "a.parquet", b"PAR1")


def test_a_dash_reads_lines_from_the_standard_input(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "x"}\n')))
    assert numbered(read_rows("-").rows) == [(1, {"prompt": "x"})]


SIXTEEN_LINES = '{"prompt": "x"}\n' * 16


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("a.jsonl", SIXTEEN_LINES + '{"prompt": \n', 17, "invalid JSON: Expecting value at column"),
        ("a.jsonl", '\n{"prompt": NaN}', 2, "JSON cannot hold"),
        ("a.jsonl", '{"prompt": 1e999}', 1, "JSON cannot hold"),
        ("a.jsonl", '{"prompt": "\\ud83d"}', 1, "surrogate"),
        ("a.jsonl", "[" * 100_000, 1, "invalid JSON"),
        ("a.jsonl", "[1]", 1, "a row is a JSON object, not list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', 2, "not UTF-8"),
        ("a.txt", b"a\n\nb\xff\n", 3, "not UTF-8"),
        ("a.json", '{"a": 1}\n{"a": 2}', 2, r"name a file with one object a line \.jsonl"),
        ("a.json", '[{"a": 1}, 2]', 2, "a row is a JSON object, not int"),
        ("a.csv", 'a,b\n"x\ny",z\nx\n', 4, "1 cells under 2 column names"),
        ("a.csv", "a,b,a\n1,2,3\n", 1, "'a' is named more than once"),
        ("a.csv", 'a\nx\n"y\n', 3, "invalid csv"),
        ("a.csv", "query,history\nx,[1\n", 2, "'history' holds invalid JSON"),
    ],
)
def test_an_unreadable_line_is_named(tmp_path, name, content, line, reason) -> None:
    with pytest.raises(RowError, match=reason) as caught:
        read(tmp_path, name, content)
    assert caught.value.line == line
    assert f"{name}, line {line}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xlsx", "", r"'\.xlsx'; a data file is one of \.jsonl, \.ndjson, \.json, \.csv"),
        ("a", "", "unknown kind of file ''"),
        ("a.jsonl", "\n\n", "holds no rows"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.json", '{"a": 1}', "one list of rows"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path, name, content, reason) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, name, content)


def test_a_missing_file_is_not_found(tmp_path) -> None:
    with pytest.raises(NotFoundError, match=r"no such data file: .*b\.jsonl") as caught:
        read_rows(str(tmp_path / "b.jsonl"))
    assert caught.value.exit_code == 3


def test_a_folder_cannot_be_read(tmp_path) -> None:
    (tmp_path / "c.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_rows(str(tmp_path / "c.jsonl"))


def ids(tmp_path, rows):
    return [row.row_id for row in read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))]


def test_a_unique_id_names_its_row(tmp_path) -> None:
    rows = [{"id": "a", "q": 1}, {"id": 7, "q": 1}, {"custom_id": "c", "q": 1}]
    assert ids(tmp_path, rows) == ["a", "7", "c"]


def test_a_row_without_a_unique_id_is_named_by_content_not_place(tmp_path) -> None:
    rows = [{"id": "a", "q": 1}, {"id": "a", "q": 2}, {"q": 3}, {"q": 3}, {"id": "", "q": 4}]
    names = ids(tmp_path, rows)
    assert len(set(names)) == 5
    assert names[2].removesuffix(".1") == names[3].removesuffix(".2")
    assert sorted(ids(tmp_path, rows[::-1])) == sorted(names)
    assert ids(tmp_path, [{"q": 5}, *rows])[1:] == names


def test_the_order_of_columns_does_not_name_a_row(tmp_path) -> None:
    first, second = ids(tmp_path, [{"q": 1, "r": 2}, {"r": 2, "q": 1}])
    assert first.removesuffix(".1") == second.removesuffix(".2")
