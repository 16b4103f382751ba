"""Forms and calls of functions in `/v1/responses`, asked for with the stock client."""

import json
from collections.abc import Iterator

import openai
import pytest

from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.models.folder import ModelFolder
from serve.servers import Running, serving
from serve.test_conformance import check
from support.shared import needs_shared
from support.tool_template import SIDES, TEMPLATE, TOOL

QUESTION = {"role": "user", "content": "Which option is right?"}
MOVE = {"type": "function", **TOOL["function"]}
ASKED = {"model": "tiny", "input": [QUESTION], "tools": [MOVE], "extra_body": {"seed": 1}}


@pytest.fixture(scope="module")
def server(tiny_llama: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    template = tmp_path_factory.mktemp("template") / "tools.jinja"
    template.write_text(TEMPLATE, encoding="utf-8")
    options = BackendOptions(dtype="fp32", kv_memory_gib=0.05, chat_template=template)
    with serving(load_backend(str(tiny_llama.path), options=options), names=("tiny",)) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client()


def test_a_schema_holds(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "name": "sides", "schema": SIDES, "strict": True}
    reply = client.responses.create(model="tiny", input="Which?", text={"format": form})
    assert json.loads(reply.output_text)["side"] in ("left", "right")
    assert reply.text.format.schema_ == SIDES


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "move"}])
def test_a_call_is_made_and_answered(client: openai.OpenAI, choice: object) -> None:
    reply = client.responses.create(**ASKED, tool_choice=choice, parallel_tool_calls=False)
    assert reply.status == "completed"
    (call,) = reply.output
    assert (call.type, call.name, call.status) == ("function_call", "move", "completed")
    assert json.loads(call.arguments)["side"] in ("left", "right")
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    again = client.responses.create(
        **{**ASKED, "input": [QUESTION, call.to_dict(), answer]}, max_output_tokens=4
    )
    assert again.usage.input_tokens > reply.usage.input_tokens


def test_a_streamed_call_is_the_whole_one_in_events(client: openai.OpenAI) -> None:
    asked = {**ASKED, "tool_choice": "required", "parallel_tool_calls": False}
    whole = client.responses.create(**asked).output[0]
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        (streamed,) = stream.get_final_response().output
    assert (streamed.name, streamed.arguments) == (whole.name, whole.arguments)
    kinds = [event.type for event in events]
    assert kinds[2] == "response.output_item.added"
    assert set(kinds[3:-3]) == {"response.function_call_arguments.delta"}
    assert kinds[-3:] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    pieces = [event.delta for event in events if event.type == kinds[3]]
    assert "".join(pieces) == whole.arguments


@needs_shared
def test_calls_are_as_documented(server: Running) -> None:
    body = {**ASKED, "tool_choice": "required", "seed": 1, "stream": True}
    del body["extra_body"]
    with server.http() as http:
        events = http.post("/v1/responses", json=body).text.strip().split("\n\n")
    for one in events:
        check(json.loads(one.split("\ndata: ")[1]), "ResponseStreamEvent")
