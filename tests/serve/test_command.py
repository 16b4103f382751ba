"""`martlet serve` as a process: what it prints, and how it is asked to stop."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import openai
import pytest

COMMAND = [sys.executable, "-m", "martlet.cli.main", "serve"]
SMALL = ["--kv-memory", "0.05", "--dtype", "fp32"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
LONG = {"max_tokens": 480, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "Hello"}]


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A process that serves the embedded model, its URL, and the lines that it prints."""
    command = [*COMMAND, "--demo", "--port", "0", *SMALL, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if line.startswith("  curl"):
                break
        url = re.search(r"http://\S+(?=/v1)", lines[-1])
        assert url, lines
        yield process, url[0], lines
    finally:
        process.kill()
        process.communicate()


def rest_of(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=30)[1]


def test_a_signal_lets_replies_finish_and_says_how_many_are_left() -> None:
    with started() as (process, url, lines):
        assert "serving demo, native, float32, context 512 tokens, pool " in "".join(lines)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, extra_body=LONG
        )
        next(stream)
        process.send_signal(signal.SIGTERM)
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
        talk = rest_of(process)
    assert process.returncode == 0
    assert "1 samples are left" in talk
    assert "every reply was finished" in talk
    assert re.search(r"POST /v1/chat/completions 200 \d+\+480 tokens", talk)


def test_a_drain_ends_with_its_time() -> None:
    with started("--drain-seconds", "0", "--host", "0.0.0.0") as (process, url, lines):
        assert any("no API keys: everybody who reaches this machine" in line for line in lines)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, n=64, extra_body=LONG
        )
        next(stream)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(stream)
        assert "64 samples are given up" in rest_of(process)
    assert process.returncode == 0


def test_a_second_signal_stops_at_once() -> None:
    with started() as (process, url, _):
        asked = {"model": "demo", "messages": MESSAGES, "n": 128, **LONG}
        asking = threading.Thread(target=_ask, args=(url, asked))
        asking.start()
        while not _is_busy(url):
            pass
        process.send_signal(signal.SIGINT)
        assert "a second signal stops at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
        asking.join()
    assert process.returncode == 0


def _ask(url: str, body: dict[str, object]) -> None:
    with suppress(httpx.HTTPError):
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def _is_busy(url: str) -> bool:
    return re.search(r"martlet_samples_running [1-9]", httpx.get(f"{url}/metrics").text) is not None
