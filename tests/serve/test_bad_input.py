"""Each bad input gets its status and a sentence that helps, in OpenAI's envelope."""

import json

import httpx
import openai
import pytest

from serve.servers import Running

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TURN = {"role": "user", "content": "Hello"}
GOOD = {"model": "demo", "messages": [TURN], "max_tokens": 2}


def refusal(
    http: httpx.Client, body: bytes | str | dict[str, object], *, path: str = CHAT
) -> tuple[int, dict[str, object]]:
    content = json.dumps(body) if isinstance(body, dict) else body
    reply = http.post(path, content=content)
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status_code, error


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "not valid JSON: EOF"),
        (b'{"model": "demo"', "not valid JSON: EOF"),
        (b"[]", "must be a JSON object, not list"),
        (b"[" * 100_000, "at most 200 levels"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "at most 200 levels"),
        (b'{"model": "\xff"}', "it must be UTF-8"),
        (b'{"model": "\\ud800"}', "half of a surrogate pair is no character"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"temperature": -Infinity}', "not valid JSON"),
        (b'{"seed": ' + b"9" * 5_000 + b"}", "number out of range"),
        (b'{"model": "demo", "prompt": "a", "min_p": 1e999}', "min_p: should be a finite number"),
    ],
)
def test_what_is_no_json(http: httpx.Client, body: bytes, sentence: str) -> None:
    status, error = refusal(http, body, path=TEXT)
    assert status == 400
    assert sentence in str(error["message"])


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"model": "x" * 600}, "model", "at most 512 characters"),
        ({"logit_bias": {str(i): 0 for i in range(2000)}}, "logit_bias", "at most 1024 items"),
        ({"xyzzy": 1}, "xyzzy", "unknown field 'xyzzy'; known: model, "),
        ({"foo-bar": 1}, "foo-bar", "unknown field 'foo-bar'"),
        ({"temperature": -1}, "temperature", "from 0 to 1000, not -1"),
        ({"temperature": "1"}, "temperature", "must be a number"),
        ({"top_p": 0}, "top_p", "above 0 and at most 1"),
        ({"n": 0}, "n", "n must be from 1"),
        ({"n": True}, "n", "must be an integer"),
        ({"n": 5_000}, None, "holds 1152 at most"),
        ({"seed": 2**70}, "seed", "seed must be from"),
        ({"max_tokens": -1}, "max_tokens", "max_tokens must be from 1"),
        ({"max_tokens": 10**9}, None, "ask for at most 50"),
        ({"max_completion_tokens": 3}, "max_tokens", "not both"),
        ({"top_logprobs": 2}, "top_logprobs", "only for logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "maps token ids to numbers, not 'x'"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"99999": 1}}, None, "token id 99999 is not in the vocabulary"),
        ({"stop_token_ids": [99_999]}, None, "token id 99999 is not in the vocabulary"),
        ({"stop": [""]}, "stop", "empty string"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
        ({"stream_options": {}}, "stream_options", "only for stream=true"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "in stream_options"),
        ({"timeout": 0}, "timeout", "greater than 0"),
        ({"store": True}, "store", "False"),
        ({"service_tier": "flex"}, "service_tier", "'auto' or 'default'"),
        ({"functions": []}, "functions", "replaced by tools"),
        ({"audio": {}}, "audio", "read and write text"),
        ({"prediction": {}}, "prediction", "not supported"),
        ({"web_search_options": {}}, "web_search_options", "searches nothing"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "not supported"),
        ({"modalities": ["audio"]}, "modalities[0]", "'text'"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "messages[0].role", "'assistant'"),
        ({"messages": [{"role": "user"}]}, None, "messages[0] needs a content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "list or a text"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]", "an object"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "'image_url' is not supported",
        ),
        ({"messages": [{**TURN, "contnt": 1}]}, "messages[0].contnt", "did you mean 'content'?"),
    ],
)
def test_bad_fields_of_a_chat(
    http: httpx.Client, fields: dict[str, object], param: str | None, sentence: str
) -> None:
    status, error = refusal(http, {**GOOD, **fields})
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert sentence in str(error["message"])
    assert error["param"] == param


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": [[]]}, "the prompt is empty"),
        ({"prompt": [-1]}, "token id -1 is not in the vocabulary"),
        ({"prompt": [10**30]}, "is not in the vocabulary"),
        ({"prompt": ["a", 5]}, "prompt[1] must be"),
        ({"prompt": [5] * 600, "max_tokens": 1}, "context holds 512"),
        ({"prompt": "a", "suffix": "b"}, "suffix is not supported"),
        ({"prompt": "a", "best_of": 2}, "best_of is not supported"),
        ({"prompt": "a", "logprobs": 21}, "0 to 20, not 21"),
        ({"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "does not stream"),
        ({}, "prompt is required"),
    ],
)
def test_bad_fields_of_a_text_completion(
    http: httpx.Client, fields: dict[str, object], sentence: str
) -> None:
    status, error = refusal(http, {"model": "demo", **fields}, path=TEXT)
    assert status == 400
    assert sentence in str(error["message"])


def test_an_unknown_model_names_the_known_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"no model 'gpt-4' here.* answers for demo"):
        client.chat.completions.create(model="gpt-4", messages=[TURN])
    with pytest.raises(openai.NotFoundError, match="answers for demo"):
        client.models.retrieve("a/b")
    assert client.models.retrieve("demo").id == "demo"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("POST", "/v1/models", 405)],
)
def test_unknown_paths_have_the_envelope_too(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    reply = http.request(method, path)
    assert reply.status_code == status
    assert path in reply.json()["error"]["message"]


def test_a_page_of_another_origin_must_ask_first(http: httpx.Client) -> None:
    body = json.dumps(GOOD).encode()
    from_page = {"Origin": "https://elsewhere.example"}
    as_text = http.post(CHAT, content=body, headers={**from_page, "Content-Type": "text/plain"})
    assert as_text.status_code == 403
    as_json = http.post(
        CHAT, content=body, headers={**from_page, "Content-Type": "application/json"}
    )
    assert as_json.status_code == 200
    assert "access-control-allow-origin" not in as_json.headers
    by_curl = http.post(CHAT, content=body, headers={"Content-Type": "text/plain"})
    assert by_curl.status_code == 200


def test_a_body_that_is_one_long_name_is_answered_at_once(http: httpx.Client) -> None:
    status, error = refusal(http, b'{"' + b"x" * 7_000_000 + b'": 1}')
    assert status == 400
    assert len(str(error)) < 1_000


def test_nothing_stays_behind(demo: Running, http: httpx.Client) -> None:
    assert refusal(http, {**GOOD, "logit_bias": {"99999": 1}, "n": 3})[0] == 400
    demo.on_engine(lambda backend: backend.engine.check_integrity())
    assert demo.on_engine(lambda backend: backend.num_unfinished) == 0
    assert demo.on_loop(lambda: demo.service.engine.num_unfinished) == 0
