"""Batches, driven by the stock client: replies, refusals, cancelling, live requests beside them."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types import Batch

from serve.servers import Running, load_demo, serving, slow_down, wait_until
from serve.test_command import started
from serve.test_conformance import check
from support.shared import needs_shared

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
Body = dict[str, object]


def chat(question: str, **fields: object) -> Body:
    turn = {"role": "user", "content": question}
    return {"model": "demo", "messages": [turn], "max_tokens": 6, **fields}


def line(custom_id: str, body: Body, *, url: str = CHAT) -> Body:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def submit(client: openai.OpenAI, lines: list[Body], *, url: str = CHAT, **fields: object) -> Batch:
    content = "\n".join(json.dumps(one, ensure_ascii=False) for one in lines).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=url, completion_window="24h", **fields
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    states: list[Batch] = [batch]

    def has_ended() -> bool:
        states.append(client.batches.retrieve(batch.id))
        return states[-1].status in ("completed", "failed", "cancelled", "expired")

    wait_until(has_ended, timeout_s=60)
    return states[-1]


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[Body]:
    assert file_id is not None
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


def assert_alike(first: object, second: object) -> None:
    """Equal but for what is a reply's own, and for how fp32's sums are rounded."""
    if isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-4)
    elif isinstance(first, list):
        for one, other in zip(first, second, strict=True):
            assert_alike(one, other)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first.keys() - {"id", "created", "created_at", "cached_tokens"}:
            assert_alike(first[name], second[name])
    else:
        assert first == second


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    """Eight samples at once, and steps that a test can watch."""
    backend = load_demo(max_num_requests=8)
    slow_down(backend, step_s=0.01)
    with serving(backend) as running:
        yield running


def test_a_batch_answers_as_the_endpoints_do(client: openai.OpenAI, http: httpx.Client) -> None:
    bodies = [
        chat("Is 小明 taller?", seed=1, temperature=1.0, n=3),
        chat("Hello", seed=2, logprobs=True, top_logprobs=2),
        chat("Hello", temperature=0),
    ]
    lines = [line(f"row {number}", body) for number, body in enumerate(bodies)]
    batch = ended(client, submit(client, lines, metadata={"who": "me"}))
    assert batch.status == "completed"
    assert batch.metadata == {"who": "me"}
    assert batch.model == "demo"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 3, 0)
    assert batch.error_file_id is None
    output = lines_of(client, batch.output_file_id)
    assert [one["custom_id"] for one in output] == ["row 0", "row 1", "row 2"]
    for body, one in zip(bodies, output, strict=True):
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        live = http.post(CHAT, json=body).json()
        assert_alike(one["response"]["body"], live)
    drawn = sum(one["response"]["body"]["usage"]["completion_tokens"] for one in output)
    assert batch.usage.output_tokens == drawn


def test_a_batch_of_responses_answers_as_that_endpoint_does(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    body: Body = {"model": "demo", "input": "Hello", "max_output_tokens": 6, "temperature": 0}
    batch = ended(client, submit(client, [line("a", body, url=RESPONSES)], url=RESPONSES))
    assert batch.status == "completed"
    (one,) = lines_of(client, batch.output_file_id)
    assert_alike(one["response"]["body"], http.post(RESPONSES, json=body).json())


def test_texts_are_completed_and_draws_are_of_the_row(client: openai.OpenAI) -> None:
    asked: Body = {"model": "demo", "prompt": ["Anna", "Bo"], "max_tokens": 8, "n": 2, "echo": True}
    lines = [line("a", asked, url=TEXT), line("b", asked, url=TEXT)]
    batch = ended(client, submit(client, lines, url=TEXT))
    first, second = lines_of(client, batch.output_file_id)
    choices = first["response"]["body"]["choices"]
    assert [choice["text"][:2] for choice in choices] == ["An", "An", "Bo", "Bo"]
    assert choices != second["response"]["body"]["choices"], "without a seed, rows draw afresh"


def test_a_wrong_file_is_refused_whole_with_its_lines(client: openai.OpenAI) -> None:
    lines = [
        line("fine", chat("Hello")),
        line("misspelt", chat("Hello", temprature=1)),
        line("unknown model", chat("Hello", model="other")),
        line("fine", chat("Hello")),
        line("url", chat("Hello"), url=TEXT),
        line("stream", chat("Hello", stream=True)),
        line("range", chat("Hello", temperature=-1)),
        line("long", chat("Hello " * 600)),
        {"custom_id": "no body", "method": "POST", "url": CHAT},
        {**line("more", chat("Hello")), "priority": 1},
    ]
    batch = ended(client, submit(client, lines))
    assert batch.status == "failed"
    assert batch.output_file_id is None
    expected = {
        2: "did you mean 'temperature'?",
        3: "no model 'other'",
        4: "'fine' stands in line 1 already",
        5: "url must be the endpoint of the batch",
        6: "stream is not for a batch",
        7: "temperature must be from 0",
        8: "context holds 512",
        9: "body is required",
        10: "unknown field 'priority'",
    }
    found = {error.line: error.message for error in batch.errors.data}
    assert set(found) == set(expected)
    for number, sentence in expected.items():
        assert sentence in found[number], found[number]


@pytest.mark.parametrize("content", [b"\n\n", b"[1]\n", b"{\xff}\n", b"not json"])
def test_what_holds_no_lines_fails(client: openai.OpenAI, content: bytes) -> None:
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch = ended(client, batch)
    assert batch.status == "failed"
    assert batch.errors.data[0].message


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint must be one of"),
        ({"completion_window": "soon"}, 400, "such as '24h'"),
        ({"input_file_id": "file-none"}, 404, "there is no file 'file-none'"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 400, "not supported"),
        ({"metadata": {"a": 1}}, 400, "must be a text"),
        ({"priority": 1}, 400, "unknown field 'priority'"),
    ],
)
def test_what_no_batch_can_be(http: httpx.Client, fields: Body, status: int, sentence: str) -> None:
    good = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}
    reply = http.post("/v1/batches", json={**good, **fields})
    assert reply.status_code == status
    assert sentence in reply.json()["error"]["message"]
    assert http.get("/v1/batches/batch_none").status_code == 404
    assert http.post("/v1/batches/batch_none/cancel").status_code == 404


@needs_shared
def test_batches_and_lists_are_as_documented(client: openai.OpenAI, http: httpx.Client) -> None:
    batches = [ended(client, submit(client, [line("a", chat("Hello"))])) for _ in range(3)]
    for batch in batches:
        check(http.get(f"/v1/batches/{batch.id}").json(), "Batch")
    failed = ended(client, submit(client, [line("a", {})]))
    check(http.get(f"/v1/batches/{failed.id}").json(), "Batch")
    page = http.get("/v1/batches", params={"limit": 2}).json()
    check(page, "ListBatchesResponse")
    assert page["has_more"] is True
    assert [one["id"] for one in page["data"]] == [failed.id, batches[2].id]
    newest = [failed, *reversed(batches)]
    listed = [one.id for one, _ in zip(client.batches.list(limit=2), newest, strict=False)]
    assert listed == [one.id for one in newest]
    assert http.get("/v1/batches", params={"after": "batch_none"}).status_code == 404
    assert http.get("/v1/batches", params={"limit": 0}).status_code == 400


def test_a_cancelled_batch_keeps_what_was_answered(slow: Running) -> None:
    client = slow.client()
    lines = [line("short", chat("Hello", max_tokens=1))]
    lines += [line(f"{k}", chat("Hello", max_tokens=300, ignore_eos=True)) for k in range(40)]
    batch = submit(client, lines)
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 1)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    assert [one["custom_id"] for one in lines_of(client, batch.output_file_id)] == ["short"]
    undone = lines_of(client, batch.error_file_id)
    assert {one["error"]["code"] for one in undone} == {"batch_cancelled"}
    assert len(undone) == 40
    assert slow.on_engine(lambda backend: backend.num_unfinished) == 0
    with pytest.raises(openai.BadRequestError, match="is cancelled and cannot be cancelled"):
        client.batches.cancel(batch.id)


def test_live_requests_do_not_wait_behind_a_batch(slow: Running) -> None:
    client = slow.client()
    body = chat("Hello", max_tokens=400, ignore_eos=True)
    batch = submit(client, [line(f"{k}", body) for k in range(200)])
    wait_until(lambda: slow.on_engine(lambda backend: backend.num_unfinished) == 7)
    for _ in range(3):
        client.chat.completions.create(**chat("Hello", max_tokens=2))
    # Eight places, one of them left free: the batch's first rows are far from their ends.
    assert client.batches.retrieve(batch.id).request_counts.completed == 0
    client.batches.cancel(batch.id)
    ended(client, batch)


def test_a_window_that_ends_expires_a_batch(slow: Running) -> None:
    client = slow.client()
    content = "\n".join(
        json.dumps(line(f"{k}", chat("Hello", max_tokens=400, ignore_eos=True))) for k in range(9)
    )
    file = client.files.create(file=("rows.jsonl", content.encode()), purpose="batch")
    creation = slow.server.config.app.state.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="1m", seconds=2, metadata=None
    )
    created = asyncio.run_coroutine_threadsafe(creation, slow.loop).result(timeout=30)
    batch = ended(client, client.batches.retrieve(created.id))
    assert batch.status == "expired"
    assert lines_of(client, batch.error_file_id)[-1]["error"]["code"] == "batch_expired"


def test_a_failed_step_fails_its_rows_in_the_error_file(slow: Running) -> None:
    client = slow.client()
    backend = slow.service.engine.backend

    def fail_once(*_: object) -> None:
        if backend.num_unfinished == 7:
            hook.remove()
            raise RuntimeError("out of memory")

    hook = backend.engine._model.module.register_forward_pre_hook(fail_once)
    body = chat("Hello", max_tokens=50, ignore_eos=True)
    batch = submit(client, [line(f"{k}", body) for k in range(10)])
    batch = ended(client, batch)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 7)
    failed = lines_of(client, batch.error_file_id)[0]
    assert failed["response"]["status_code"] == 500
    assert "out of memory" in failed["response"]["body"]["error"]["message"]


def test_one_server_has_a_folder_and_none_makes_it_in_vain(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with (
        serving(load_demo(), data_dir=folder) as first,
        serving(load_demo(), data_dir=folder) as second,
    ):
        assert first.client().models.list()
        assert not folder.exists()
        assert first.client().files.list().data == []
        with pytest.raises(openai.InternalServerError, match=r"another server uses .* --data-dir"):
            second.client().files.list()


def _num_samples_drawn(http: httpx.Client) -> int:
    counts = re.findall(r"^martlet_samples_total\{.*} (\S+)", http.get("/metrics").text, re.M)
    return sum(int(float(count)) for count in counts)


@pytest.mark.slow
def test_a_killed_server_goes_on_and_draws_nothing_twice(
    tmp_path: Path, client: openai.OpenAI
) -> None:
    folder = tmp_path / "data"
    body = chat("Hello", n=2, temperature=1.0, max_tokens=150, ignore_eos=True)
    lines = [line(f"{k}", {**body, "seed": k}) for k in range(24)]
    with started("--data-dir", str(folder), "--max-requests", "8") as (process, url, _):
        first = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        batch = submit(first, lines)
        wait_until(lambda: first.batches.retrieve(batch.id).request_counts.completed >= 4)
        process.kill()
        process.wait()
    with sqlite3.connect(folder / "journals" / batch.id) as journal:
        (num_kept,) = journal.execute("SELECT count(*) FROM sample").fetchone()
    journal.close()
    assert 8 <= num_kept < 48
    with (
        serving(load_demo(), data_dir=folder) as second,
        second.http() as http,
    ):
        finished = ended(second.client(), batch)
        assert finished.status == "completed"
        assert finished.request_counts.completed == 24
        output = lines_of(second.client(), finished.output_file_id)
        assert _num_samples_drawn(http) == 48 - num_kept
    assert not (folder / "journals" / batch.id).exists()
    undisturbed = ended(client, submit(client, lines))
    for one, other in zip(output, lines_of(client, undisturbed.output_file_id), strict=True):
        assert_alike(one["response"]["body"], other["response"]["body"])


def test_a_stopped_server_leaves_its_batches_to_the_next_that_has_the_model(
    tmp_path: Path,
) -> None:
    backend = load_demo(max_num_requests=8)
    slow_down(backend, step_s=0.02)
    with serving(backend, data_dir=tmp_path) as first:
        body = chat("Hello", max_tokens=20, ignore_eos=True)
        batch = submit(first.client(), [line(f"{k}", body) for k in range(60)])
        wait_until(lambda: first.client().batches.retrieve(batch.id).request_counts.completed > 0)
    with serving(load_demo(), names=("other",), data_dir=tmp_path) as second:
        waiting = second.client().batches.retrieve(batch.id)
        assert waiting.status == "in_progress"
        assert waiting.request_counts.completed == 0
    with serving(load_demo(), data_dir=tmp_path) as third:
        finished = ended(third.client(), batch)
        assert (finished.status, finished.request_counts.completed) == ("completed", 60)
