"""The context policy over HTTP: a field, a server's default, a note with each reply."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from chat.conversations import SYSTEM, conversation, visible_turns
from martlet.serve.settings import ServeSettings
from serve.servers import Running, load_demo, serving

PATH = "/v1/chat/completions"
NUM_TURNS = 40
ASKED = {"model": "demo", "messages": conversation(NUM_TURNS), "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    """A server that refuses what does not fit unless a request says otherwise."""
    with serving(load_demo()) as running:
        yield running


@pytest.fixture(scope="module")
def http(strict: Running) -> Iterator[httpx.Client]:
    with strict.http() as http:
        yield http


def test_without_a_policy_it_is_refused(strict: Running, http: httpx.Client) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        strict.client().chat.completions.create(**ASKED)
    assert caught.value.code == "context_length_exceeded"
    assert "drop-old-turns" in caught.value.message
    wrong = http.post(PATH, json={**ASKED, "context_policy": "drop"}).json()["error"]
    assert wrong["param"] == "context_policy"
    assert "'drop-old-turns'" in wrong["message"]


@pytest.mark.parametrize("policy", ["drop-old-turns", "keep-system+tail"])
def test_the_note_says_what_is_missing_from_the_prompt(http: httpx.Client, policy: str) -> None:
    asked = {**ASKED, "context_policy": policy}
    reply = http.post(PATH, json=asked, headers={"X-Martlet-Explain": "1"}).json()
    note, (prompt,) = reply["martlet"]["context"], reply["martlet"]["prompts"]
    assert SYSTEM in prompt
    seen = visible_turns(prompt, NUM_TURNS + 1)
    first = note["num_dropped_turns"]
    assert 0 < first < NUM_TURNS
    assert list(seen) in ([*range(first, NUM_TURNS + 1)], [*range(first + 1, NUM_TURNS + 1)])
    assert policy == "keep-system+tail" or len(seen) == NUM_TURNS + 1 - first
    assert note["num_dropped_messages"] == 2 * first
    assert note["num_prompt_tokens"] == reply["usage"]["prompt_tokens"]
    assert note["num_room_tokens"] == 512 - note["num_prompt_tokens"] >= 8
    unasked = http.post(PATH, json=asked).json()
    assert unasked["martlet"] == {"context": note}
    assert unasked["choices"] == reply["choices"]


def test_a_stream_says_it_at_once(http: httpx.Client) -> None:
    asked = {**ASKED, "context_policy": "drop-old-turns", "stream": True}
    events = http.post(PATH, json=asked).text.split("\n\n")
    first = json.loads(events[0].removeprefix("data: "))
    assert first["martlet"]["context"]["num_dropped_turns"] > 0
    assert not any("martlet" in event for event in events[1:])


def test_responses_say_truncation(strict: Running, http: httpx.Client) -> None:
    asked = {"model": "demo", "input": conversation(NUM_TURNS), "max_output_tokens": 8}
    assert http.post("/v1/responses", json=asked).status_code == 400
    response = strict.client().responses.create(**asked, truncation="auto")
    assert response.truncation == "auto"
    assert response.model_extra is not None
    assert response.model_extra["martlet"]["context"]["num_dropped_turns"] > 0


def test_a_row_of_a_batch_says_it_too(strict: Running) -> None:
    client = strict.client()
    body = {**ASKED, "context_policy": "drop-old-turns"}
    line = {"custom_id": "one", "method": "POST", "url": PATH, "body": body}
    file = client.files.create(file=("rows.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=PATH, completion_window="24h")
    while batch.status not in ("completed", "failed"):
        batch = client.batches.retrieve(batch.id)
    assert batch.output_file_id is not None, batch.errors
    row = json.loads(client.files.content(batch.output_file_id).text)
    assert row["response"]["body"]["martlet"]["context"]["num_dropped_turns"] > 0


def test_the_servers_default_holds_for_stock_clients(tmp_path: Path) -> None:
    settings = ServeSettings(context_policy="drop-old-turns")
    with serving(load_demo(), settings=settings, data_dir=tmp_path) as running:
        client = running.client()
        reply = client.chat.completions.create(**ASKED)
        assert reply.model_extra is not None
        assert reply.model_extra["martlet"]["context"]["num_dropped_turns"] > 0
        short = client.chat.completions.create(**{**ASKED, "messages": conversation(1)})
        assert short.model_extra is not None
        assert short.model_extra["martlet"]["context"]["num_dropped_turns"] == 0
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**ASKED, extra_body={"context_policy": "error"})
