"""Replies as OpenAI documents them, and metrics as Prometheus reads them."""

import json
from functools import cache

import httpx
import jsonschema
import yaml
from prometheus_client.parser import text_string_to_metric_families

from martlet import __version__
from serve.servers import load_demo, serving
from support.shared import SHARED, needs_shared

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "小明?"}], "max_tokens": 8}
TEXT = {"model": "demo", "prompt": ["Anna", "Bo"], "max_tokens": 8}


@cache
def components() -> object:
    path = SHARED / "openapi" / "openapi.yaml"
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return _with_nulls(document["components"])


def _with_nulls(node: object) -> object:
    """The document says `nullable`, as OpenAPI 3.0 did, which JSON Schema does not know."""
    if isinstance(node, list):
        return [_with_nulls(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {key: _with_nulls(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [inner, {"type": "null"}]} if node.get("nullable") is True else inner


def check(instance: object, name: str) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": components()}
    jsonschema.Draft202012Validator(schema).validate(instance)


def chunks_of(http: httpx.Client, path: str, body: dict[str, object]) -> list[object]:
    reply = http.post(
        path, json={**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@needs_shared
def test_replies_are_as_documented(http: httpx.Client) -> None:
    scored = {**CHAT, "logprobs": True, "top_logprobs": 2, "n": 2}
    for body in (CHAT, scored):
        check(http.post("/v1/chat/completions", json=body).json(), "CreateChatCompletionResponse")
        for chunk in chunks_of(http, "/v1/chat/completions", body):
            check(chunk, "CreateChatCompletionStreamResponse")
    # Both at once begin with a null, as OpenAI's replies do and its document does not say.
    for body in (TEXT, {**TEXT, "logprobs": 2}, {**TEXT, "echo": True}):
        check(http.post("/v1/completions", json=body).json(), "CreateCompletionResponse")
    check(http.get("/v1/models").json(), "ListModelsResponse")
    check(http.get("/v1/models/demo").json(), "Model")
    check(http.get("/v1/models/other").json(), "ErrorResponse")
    check(http.post("/v1/chat/completions", json={}).json(), "ErrorResponse")


@needs_shared
def test_every_documented_field_is_known(http: httpx.Client) -> None:
    for path, good, name in (
        ("/v1/chat/completions", CHAT, "CreateChatCompletionRequest"),
        ("/v1/completions", TEXT, "CreateCompletionRequest"),
    ):
        documented = _properties(name)
        assert len(documented) > 15
        for field in documented:
            reply = http.post(path, json={**good, field: "a value"})
            assert reply.status_code in (200, 400, 404), field
            assert "unknown field" not in reply.text, field


def _properties(name: str) -> set[str]:
    schema = components()["schemas"][name]
    names = set(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        names |= set(part.get("properties", {}))
        if "$ref" in part:
            names |= _properties(part["$ref"].rsplit("/", 1)[1])
    return names


def test_metrics_tell_what_happened() -> None:
    with serving(load_demo()) as running, running.http() as http:
        reply = http.post("/v1/chat/completions", json={**CHAT, "ignore_eos": True, "n": 2}).json()
        http.post("/v1/chat/completions", json={})
        text = http.get("/metrics").text
        version = http.get("/version").json()
    samples = {
        (sample.name, sample.labels.get("endpoint"), sample.labels.get("status")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["martlet_requests_total", "/v1/chat/completions", "200"] == 1
    assert samples["martlet_requests_total", "/v1/chat/completions", "400"] == 1
    assert samples["martlet_generated_tokens_total", None, None] == 16
    assert samples["martlet_prompt_tokens_total", None, None] == 2 * reply["usage"]["prompt_tokens"]
    assert samples["martlet_time_to_first_token_seconds_count", None, None] == 2
    assert samples["martlet_inter_token_seconds_count", None, None] == 14
    assert samples["martlet_samples_running", None, None] == 0
    assert samples["martlet_free_blocks", None, None] > 0
    assert version == {"version": __version__}
