"""Structured output and tool calls, asked for with the stock client."""

import json
import re
from collections.abc import Iterator

import openai
import pytest

from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.models.folder import ModelFolder
from serve.servers import Running, serving
from support.tool_template import SIDES, TEMPLATE, TOOL

ASKED = [{"role": "user", "content": "Which option is right?"}]


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
    form = {"type": "json_schema", "json_schema": {"name": "sides", "schema": SIDES}}
    for seed in range(3):
        reply = client.chat.completions.create(
            model="tiny", messages=ASKED, response_format=form, seed=seed
        )
        assert json.loads(reply.choices[0].message.content)["side"] in ("left", "right")
        assert reply.choices[0].finish_reason == "stop"


def test_an_expression_and_a_choice_hold_in_a_stream(client: openai.OpenAI) -> None:
    for form, pattern in (
        ({"regex": "[ABC]-[0-9]{3}"}, "[ABC]-[0-9]{3}"),
        ({"choice": ["ja", "nein"]}, "ja|nein"),
    ):
        stream = client.chat.completions.create(
            model="tiny", messages=ASKED, stream=True, extra_body={"structured_outputs": form}
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "move"}}])
def test_a_call_is_made(client: openai.OpenAI, choice: object) -> None:
    reply = client.chat.completions.create(
        model="tiny",
        messages=ASKED,
        tools=[TOOL],
        tool_choice=choice,
        seed=1,
        parallel_tool_calls=False,
    ).choices[0]
    assert reply.finish_reason == "tool_calls"
    assert reply.message.content is None
    (call,) = reply.message.tool_calls
    assert call.function.name == "move"
    assert json.loads(call.function.arguments)["side"] in ("left", "right")
    answered = [*ASKED, reply.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    again = client.chat.completions.create(
        model="tiny", messages=answered, tools=[TOOL], max_tokens=4
    )
    assert again.usage.prompt_tokens > 0


def test_a_streamed_call_is_the_whole_one_in_pieces(client: openai.OpenAI) -> None:
    asked = {
        "model": "tiny",
        "messages": ASKED,
        "tools": [TOOL],
        "tool_choice": "required",
        "seed": 2,
        "parallel_tool_calls": False,
    }
    whole = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]
    name, arguments, reasons = "", "", []
    for chunk in client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        for piece in choice.delta.tool_calls or []:
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
        reasons.append(choice.finish_reason)
    assert (name, arguments) == (whole.function.name, whole.function.arguments)
    assert reasons[-1] == "tool_calls"


def test_without_calls_tools_change_nothing_but_the_prompt(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(
        model="tiny", messages=ASKED, tools=[TOOL], max_tokens=6, temperature=0
    )
    silent = client.chat.completions.create(
        model="tiny", messages=ASKED, tools=[TOOL], tool_choice="none", max_tokens=6, temperature=0
    )
    assert free.choices[0].message.tool_calls is None
    assert free.usage.prompt_tokens > silent.usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}},
            "type must be",
        ),
        ({"structured_outputs": {"regex": "(["}}, "regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "exactly one"),
        ({"structured_outputs": {"grammar": "start: /a/"}}, "grammar"),
        ({"tool_choice": "required"}, "no tools are given"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "move",
        ),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[0]"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_cannot_be_held_is_refused(
    client: openai.OpenAI, fields: dict[str, object], named: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(named)):
        client.chat.completions.create(model="tiny", messages=ASKED, extra_body=fields)
