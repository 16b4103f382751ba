"""Requests that end otherwise than by their reply: clients that leave, full queues, deadlines."""

import json
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest

from martlet.backends.base import Backend
from martlet.backends.native import NativeBackend
from martlet.serve.settings import ServeSettings
from serve.servers import Running, load_demo, serving, slow_down, wait_until

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
LONG = {"model": "demo", "messages": MESSAGES, "ignore_eos": True, "max_tokens": 400}
STEP_S = 0.02


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    """Two samples at once, two that wait, and steps that a test can watch."""
    backend = load_demo(max_num_requests=2)
    slow_down(backend, step_s=STEP_S)
    settings = ServeSettings(max_num_queued=2, heartbeat_s=STEP_S / 4)
    with serving(backend, settings=settings) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_stays_behind(slow: Running) -> Iterator[None]:
    yield
    wait_until(lambda: slow.on_engine(_num_unfinished) == 0)
    slow.on_engine(_check_integrity)
    assert slow.on_loop(lambda: slow.service.engine.num_unfinished) == 0


def _num_unfinished(backend: Backend) -> int:
    return backend.num_unfinished


def _check_integrity(backend: Backend) -> None:
    assert isinstance(backend, NativeBackend)
    backend.engine.check_integrity()
    pool = backend.engine._scheduler.pool
    assert pool.num_free == backend.engine.config.num_blocks


def _num_steps(backend: Backend) -> int:
    assert isinstance(backend, NativeBackend)
    return backend.engine.stats.num_steps


def test_a_client_that_leaves_a_stream_frees_its_blocks(slow: Running) -> None:
    with slow.http() as http:
        with http.stream("POST", CHAT, json={**LONG, "stream": True, "n": 2}) as reply:
            lines = reply.iter_lines()
            while '"content":"' not in next(lines):
                pass
            assert slow.on_engine(_num_unfinished) == 2
        before = slow.on_engine(_num_steps)
        wait_until(lambda: slow.on_engine(_num_unfinished) == 0)
        assert slow.on_engine(_num_steps) - before < 20, "far from the 400 that were asked for"


def test_a_client_that_leaves_before_its_reply_frees_its_blocks(slow: Running) -> None:
    with slow.http() as http, pytest.raises(httpx.ReadTimeout):
        http.post(CHAT, json=LONG, timeout=0.2)
    wait_until(lambda: slow.on_engine(_num_unfinished) == 0)


def test_a_full_queue_says_when_to_come_again(slow: Running) -> None:
    with slow.http() as http:
        with http.stream("POST", CHAT, json={**LONG, "stream": True, "n": 4}):
            assert http.get("/ready").status_code == 429
            assert http.get("/health").status_code == 200
            refused = http.post(CHAT, json=LONG)
            assert refused.status_code == 429
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            with pytest.raises(openai.RateLimitError, match="4 samples are waiting or running"):
                slow.client().chat.completions.create(model="demo", messages=MESSAGES)
        wait_until(lambda: http.get("/ready").status_code == 200)


def test_a_deadline_ends_a_reply(slow: Running) -> None:
    with slow.http() as http:
        late = http.post(CHAT, json={**LONG, "timeout": 0.2})
        assert late.status_code == 504
        assert "within 0.2 s" in late.json()["error"]["message"]
        stream = http.post(CHAT, json={**LONG, "timeout": 0.2, "stream": True})
    *_, event, data = stream.text.strip().splitlines()
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "deadline"
    with pytest.raises(openai.APIError, match=r"within 0\.2 s"):
        list(
            slow.client().chat.completions.create(
                model="demo",
                messages=MESSAGES,
                stream=True,
                extra_body={"timeout": 0.2, "ignore_eos": True, "max_tokens": 400},
            )
        )


def test_a_silent_stream_shows_that_it_lives(slow: Running) -> None:
    with slow.http() as http:
        stream = http.post(CHAT, json={**LONG, "max_tokens": 5, "stream": True})
    assert ": ping\n\n" in stream.text
    assert stream.text.endswith("data: [DONE]\n\n")


def test_a_failed_step_fails_its_requests_and_no_others(slow: Running) -> None:
    backend = slow.service.engine.backend
    assert isinstance(backend, NativeBackend)
    client = slow.client()

    def fail_once(*_: object) -> None:
        hook.remove()
        raise RuntimeError("out of memory")

    asked = {"model": "demo", "messages": MESSAGES, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(**asked, max_tokens=100, stream=True)
    next(stream)
    hook = backend.engine._model.module.register_forward_pre_hook(fail_once)
    with pytest.raises(openai.APIError, match=r"could not be computed.*out of memory"):
        list(stream)
    hook = backend.engine._model.module.register_forward_pre_hook(fail_once)
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        client.chat.completions.create(**asked, max_tokens=5)
    after = client.chat.completions.create(**asked, max_tokens=5)
    assert after.usage.completion_tokens == 5


def test_a_client_that_does_not_read_holds_up_nobody(slow: Running) -> None:
    with slow.http() as http, http.stream("POST", CHAT, json={**LONG, "stream": True}):
        assert http.post(CHAT, json={**LONG, "max_tokens": 5}).status_code == 200
        assert slow.on_engine(_num_unfinished) == 1, "the stream is far from its end"


def test_a_backend_that_breaks_down_is_told() -> None:
    """`poll` itself raises, then the thread ends: errors for who waits, 503 for who comes."""
    backend = load_demo()
    slow_down(backend, step_s=STEP_S)
    with serving(backend) as running, running.http() as http:
        with http.stream("POST", CHAT, json={**LONG, "stream": True}) as reply:
            lines = reply.iter_lines()
            next(lines)

            def break_down() -> list[object]:
                raise SystemExit("no more")

            backend.poll = break_down  # type: ignore[method-assign]
            assert "the engine has stopped: no more" in "\n".join(lines)
        for path in ("/health", "/ready"):
            assert http.get(path).status_code == 503
        refused = http.post(CHAT, json=LONG)
        assert refused.status_code == 503
        assert "restart the server" in refused.json()["error"]["message"]


def test_draining_finishes_what_runs_and_refuses_what_comes() -> None:
    backend = load_demo()
    slow_down(backend, step_s=STEP_S)
    with serving(backend) as running, running.http() as http:
        replies: list[httpx.Response] = []
        asked = {**LONG, "max_tokens": 30}
        asking = threading.Thread(target=lambda: replies.append(http.post(CHAT, json=asked)))
        asking.start()
        wait_until(lambda: running.on_engine(_num_unfinished) == 1)
        running.loop.call_soon_threadsafe(running.server.begin_to_drain)
        wait_until(lambda: running.service.engine.is_draining)
        late = http.post(CHAT, json=asked)
        assert late.status_code == 503
        assert "takes no new requests" in late.json()["error"]["message"]
        assert http.get("/health").status_code == 200
        asking.join(timeout=30)
        assert replies[0].json()["usage"]["completion_tokens"] == 30
