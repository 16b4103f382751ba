"""`/v1/responses`, driven by the stock client: items, events, refusals."""

import asyncio
import json

import httpx
import openai
import pytest
from openai.types.responses import Response

from martlet.serve.schema.responses import ResponsesRequest
from serve.servers import Running
from serve.test_conformance import check
from support.shared import needs_shared

PATH = "/v1/responses"
ASKED: dict[str, object] = {"model": "demo", "input": "Is 小明 taller?", "temperature": 0}
SCORED = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}


def events_of(http: httpx.Client, body: dict[str, object]) -> list[dict[str, object]]:
    reply = http.post(PATH, json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    events = []
    for one in reply.text.strip().split("\n\n"):
        name, data = one.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_own(response: dict[str, object]) -> dict[str, object]:
    """A response without its ids, its time and what was in the cache."""
    output = [{**item, "id": None} for item in response["output"]]
    return {**response, "id": None, "created_at": 0, "output": output, "usage": None}


def test_a_response_says_what_a_chat_does(client: openai.OpenAI) -> None:
    response = client.responses.create(
        **ASKED, instructions="Be brief.", max_output_tokens=12, metadata={"who": "me"}
    )
    chat = client.chat.completions.create(
        model="demo",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": str(ASKED["input"])},
        ],
        temperature=0,
        max_tokens=12,
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    is_cut = chat.choices[0].finish_reason == "length"
    assert response.status == ("incomplete" if is_cut else "completed")
    assert (response.store, response.metadata) == (False, {"who": "me"})


def test_what_was_said_and_called_goes_back_in(client: openai.OpenAI) -> None:
    first = client.responses.create(**ASKED, max_output_tokens=8, **SCORED)
    items = [{"role": "user", "content": "Hello"}, *(item.to_dict() for item in first.output)]
    second = client.responses.create(
        model="demo", input=[*items, {"role": "user", "content": "And?"}], max_output_tokens=4
    )
    assert second.usage.input_tokens > first.usage.input_tokens


def test_items_become_the_turns_of_a_chat() -> None:
    request = ResponsesRequest(
        model="demo",
        instructions="Help.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
            {"type": "message", "role": "assistant", "content": "I look."},
            {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "wet"},
        ],
        tools=[{"type": "function", "name": "look", "parameters": {"type": "object"}}],
        tool_choice={"type": "function", "name": "look"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        seed=7,
    )
    chat = request.as_chat()
    assert [turn.role for turn in chat.messages] == ["system", "user", "assistant", "tool"]
    assert [call.id for call in chat.messages[2].tool_calls] == ["a", "b"]
    assert chat.messages[2].content == "I look."
    assert chat.messages[3].tool_call_id == "a"
    assert chat.tools == [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    ]
    assert chat.tool_choice == {"type": "function", "function": {"name": "look"}}
    assert chat.response_format["json_schema"]["schema"] == {"type": "object"}
    assert chat.seed == 7


def test_a_stream_tells_the_whole_response(client: openai.OpenAI) -> None:
    asked = {**ASKED, "max_output_tokens": 10, "extra_body": {"ignore_eos": True}, **SCORED}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    kinds, streamed = [event.type for event in events], events[-1].response
    assert streamed.output_text == whole.output_text
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert streamed.incomplete_details.reason == "max_output_tokens"
    assert len(streamed.output[0].content[0].logprobs) == 10
    with client.responses.stream(**ASKED) as stream:
        ended = stream.get_final_response()
    assert ended.status == "completed"
    assert ended.output_text == client.responses.create(**ASKED).output_text


def test_the_async_client_streams(demo: Running) -> None:
    async def ask() -> tuple[str, Response]:
        async with demo.async_client() as client:
            stream = await client.responses.create(**ASKED, max_output_tokens=20, stream=True)
            text = ""
            async for event in stream:
                if event.type == "response.output_text.delta":
                    text += event.delta
        return text, event.response

    text, response = asyncio.run(ask())
    assert text
    assert response.output_text == text


@needs_shared
def test_responses_and_events_are_as_documented(http: httpx.Client) -> None:
    for fields in ({}, {"max_output_tokens": 5, "ignore_eos": True, "max_tokens": None}, SCORED):
        body = {**ASKED, **fields}
        response = http.post(PATH, json=body).json()
        check(response, "Response")
        events = events_of(http, body)
        for event in events:
            check(event, "ResponseStreamEvent")
        assert without_own(events[-1]["response"]) == without_own(response)


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation"),
        ({"store": True}, "store", "keeps no responses"),
        ({"background": True}, "background", "use /v1/batches"),
        ({"truncation": "middle"}, "truncation", "should be 'auto' or 'disabled'"),
        ({"reasoning": {"effort": "low"}}, "reasoning", "no such setting"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]", "logprobs"),
        ({"max_tokens": 5}, "max_tokens", "it is called max_output_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"temperature": -1}, "temperature", "from 0"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": None}, "input", "required"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type", "known: message"),
        ({"input": [{"role": "user"}]}, "input[0].content", "required"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
            "read and write text",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "only functions are"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "no such setting"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "goes with"),
        ({"tool_choice": "required"}, "tool_choice", "no tools are given"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    http: httpx.Client, fields: dict[str, object], param: str, sentence: str
) -> None:
    reply = http.post(PATH, json={**ASKED, **fields})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert sentence in error["message"]


@needs_shared
def test_every_documented_field_is_known(http: httpx.Client) -> None:
    from serve.test_conformance import _properties

    documented = _properties("CreateResponse")
    assert len(documented) > 20
    for field in documented:
        reply = http.post(PATH, json={**ASKED, field: "a value"})
        assert "unknown field" not in reply.text, field


def test_a_failure_in_a_stream_is_an_event(demo: Running) -> None:
    backend = demo.service.engine.backend

    def fail_once(*_: object) -> None:
        hook.remove()
        raise RuntimeError("out of memory")

    with demo.http() as http:
        hook = backend.engine._model.module.register_forward_pre_hook(fail_once)
        *_, last = events_of(http, ASKED)
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert "out of memory" in last["response"]["error"]["message"]
