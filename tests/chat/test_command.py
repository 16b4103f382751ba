"""What `martlet chat` refuses before it loads anything."""

import io

import pytest

from cli.conftest import Call, call

__all__ = ["call"]


@pytest.mark.parametrize(
    ("options", "piped", "sentence"),
    [
        ([], b"Hello", "name a model to talk to, or give --demo"),
        (["demo", "--demo"], b"Hello", "not both"),
        (["--demo"], b" \n", "nothing came on standard input"),
        (["--demo"], b"\xff\xfe", "standard input is not UTF-8"),
        (["--demo", "--samples", 3], b"Hello", "--samples is for votes"),
        (["--demo", "--temperature", -1], b"Hello", "temperature must be from 0 to 1000"),
        (["--demo", "--adapter", "judge"], b"Hello", "--adapter takes NAME=DIR"),
        (["--demo", "--adapter", "base=./judge"], b"Hello", "'base' is the model without"),
        (["--demo", "--adapter", "a=b", "--adapter", "a=c"], b"Hello", "names 'a' twice"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    monkeypatch: pytest.MonkeyPatch, call: Call, options: list[object], piped: bytes, sentence: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped)))
    called = call("chat", *options)
    assert called.exit_code == 2
    (line,) = called.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert called.stdout == ""
