"""What `martlet serve` refuses before it loads anything."""

import socket
import sys

import pytest

from cli.conftest import Call


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ([], 2, "name a model to serve, or give --demo"),
        (["demo", "--demo"], 2, "not both"),
        (["--demo", "--port", "70000"], 2, "0 to 65535"),
        (["--demo", "--backend", "vllm", "--adapter", "a=./a"], 2, "the native backend alone"),
        (["--demo", "--adapter", "poet"], 2, "--adapter takes NAME=DIR"),
        (["--demo", "--adapter", "demo=./poet"], 2, "'demo' is the name of the base model"),
        (["--demo", "--adapter-dir", "./nowhere"], 3, "there is no folder nowhere"),
        (["--demo", "--tuning-dir", __file__], 2, "is a file; name a folder"),
        (["--demo", "--api-key-file", "./nowhere"], 3, "cannot be read"),
        (["--demo", "--max-queue", "0"], 2, "max_num_queued must be at least 1"),
        (["--demo", "--max-body-mb", "nan"], 2, "--max-body-mb must be above 0"),
        (["--demo", "--drain-seconds", "-1"], 2, "drain_s must be 0 or above"),
        (["--demo", "--ssl-keyfile", "key.pem"], 2, "--ssl-keyfile needs --ssl-certfile"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    call: Call, options: list[str], code: int, sentence: str
) -> None:
    called = call("serve", *options)
    assert called.exit_code == code
    (line,) = called.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line


def test_a_taken_port_is_one_line_and_never_another_port(call: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        called = call("serve", "--demo", "--port", port)
    assert called.exit_code == 2
    assert called.stderr == (
        f"error: 127.0.0.1:{port} is taken by another program; stop it, or give another --port\n"
    )


def test_a_missing_extra_is_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    called = call("serve", "--demo")
    assert called.exit_code == 5
    assert "pip install 'martlet[serve]'" in called.stderr
