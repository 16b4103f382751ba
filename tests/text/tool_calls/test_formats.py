"""Tool calls are read as the templates write them, whole and in pieces, and words stay words."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from martlet.errors import ParameterError
from martlet.text.tokenizer import Tokenizer
from martlet.text.tool_calls.chatglm import ChatGLMFormat
from martlet.text.tool_calls.deltas import ParsedReply, ToolCallDelta, join
from martlet.text.tool_calls.detect import detect
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.functions import Function, read_functions, select_function
from martlet.text.tool_calls.hermes import HermesFormat
from martlet.text.tool_calls.llama3 import Llama3Format
from martlet.text.tool_calls.mistral import MistralFormat
from support.shared import SHARED, needs_shared

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks something up.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
    for name in ("weather", "weather_at", "time")
]
FUNCTIONS = read_functions(TOOLS)
ARGUMENTS = '{"place": "北京 \\"{[}\\\\", "days": [1, {"a": null}]}'
HERMES_CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
HERMES, LLAMA3, MISTRAL, CHATGLM = (
    kind({}) for kind in (HermesFormat, Llama3Format, MistralFormat, ChatGLMFormat)
)


def calls_of(reply: ParsedReply) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in reply.tool_calls]


WELL_FORMED = [
    (HERMES, HERMES_CALL, None, 1),
    (HERMES, f"Let me see.\n\n{HERMES_CALL}\n{HERMES_CALL}\n", "Let me see.", 2),
    (HERMES, f"<tool_ {HERMES_CALL} and so on ", "<tool_and so on ", 1),
    (HERMES, HERMES_CALL.removesuffix("\n</tool_call>"), None, 1),
    (HERMES, f'<tool_call>{{"arguments":{ARGUMENTS},"name":"weather"}}</tool_call>', None, 1),
    (LLAMA3, f'{{"name": "weather", "parameters": {ARGUMENTS}}}', None, 1),
    (LLAMA3, f'\n<|python_tag|>{{"name": "weather", "parameters": {ARGUMENTS}}} ', None, 1),
    (
        LLAMA3,
        f'{{"type": "function", "name": "weather", "parameters": {json.dumps(ARGUMENTS)}}}',
        None,
        1,
    ),
    (MISTRAL, f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}}}]', None, 1),
    (
        MISTRAL,
        f'So: [TOOL_CALLS][{{"name": "weather", "arguments": {ARGUMENTS}, "id": "abcdefghi"}}, '
        f'{{"name": "weather", "arguments": {ARGUMENTS}}}]',
        "So:",
        2,
    ),
    (CHATGLM, f"weather\n{ARGUMENTS}", None, 1),
    (CHATGLM, f"\nweather\n{ARGUMENTS}\n", None, 1),
]
WORDS = [
    (HERMES, "The tag <tool_call> begins a call."),
    (HERMES, '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
    (HERMES, '<tool_call>\n{"name": "weather", "arguments": [1]}\n</tool_call> \n'),
    (HERMES, '<tool_call>\n{"name": "weather"}\n</tool_call>'),
    (HERMES, '<tool_call>\n{"name": "weather", "argum'),
    (HERMES, " \n<tool_call"),
    (LLAMA3, '{"answer": 42}'),
    (LLAMA3, 'Sure: {"name": "weather", "parameters": {}}'),
    (LLAMA3, "<|python_tag|>weather.call()"),
    (MISTRAL, "[TOOL_CALLS] weather"),
    (MISTRAL, '[TOOL_CALLS] [{"name": "unknown", "arguments": {}}]'),
    (CHATGLM, "weather is fine\n{}"),
    (CHATGLM, "weather\nis fine"),
    (CHATGLM, "weather"),
    (CHATGLM, " \n 你好"),
]
BROKEN = [
    (HERMES, f"Hm. {HERMES_CALL[:-20]}"),
    (HERMES, '<tool_call>{"name": "weather", "arguments": {place: 1}}</tool_call> \n'),
    (LLAMA3, '{"name": "weather", "parameters": {"place": "北'),
    (MISTRAL, '[TOOL_CALLS] [{"name": "weather", "arguments": {"place": }}] !'),
    (CHATGLM, 'weather\n{"place": "'),
]
"""Replies whose call had begun before it proved malformed."""


@pytest.mark.parametrize(("family", "text", "content", "num_calls"), WELL_FORMED)
def test_calls_are_found(
    family: ToolCallFormat, text: str, content: str | None, num_calls: int
) -> None:
    reply = family.parse(text, FUNCTIONS)
    assert calls_of(reply) == [("weather", ARGUMENTS)] * num_calls
    assert reply.content == content
    ids = {call.id for call in reply.tool_calls}
    assert len(ids) == num_calls
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)


@pytest.mark.parametrize(("family", "text"), [*WORDS, *BROKEN])
def test_what_is_no_call_stays_as_it_is(family: ToolCallFormat, text: str) -> None:
    assert family.parse(text, FUNCTIONS) == ParsedReply(content=text, tool_calls=())


EVERY_REPLY = [(family, text) for family, text, *_ in WELL_FORMED] + WORDS


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EVERY_REPLY), st.data())
def test_however_a_stream_is_cut_the_reply_is_the_same(
    reply: tuple[ToolCallFormat, str], data: st.DataObject
) -> None:
    family, text = reply
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    parser = family.new_parser(FUNCTIONS)
    deltas = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        deltas += parser.push(text[start:end])
    deltas += parser.flush()
    joined, whole = join(deltas), family.parse(text, FUNCTIONS)
    assert (joined.content, calls_of(joined)) == (whole.content, calls_of(whole))
    named = [d.index for d in deltas if isinstance(d, ToolCallDelta) and d.name is not None]
    assert named == list(range(len(whole.tool_calls)))


def test_a_call_is_streamed_as_it_comes_and_no_tag_is_shown() -> None:
    parser = HERMES.new_parser(FUNCTIONS)
    pieces = [parser.push(char) for char in f"Wait.\n{HERMES_CALL}"]
    deltas = [delta for piece in pieces for delta in piece]
    assert join([d for d in deltas if not isinstance(d, ToolCallDelta)]).content == "Wait."
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert (calls[0].name, calls[0].arguments) == ("weather", "")
    assert [call.arguments for call in calls[1:]] == list(ARGUMENTS)
    assert parser.flush() == []


@pytest.mark.parametrize(("family", "text"), BROKEN)
def test_a_call_that_breaks_in_a_stream_stays_unfinished(family: ToolCallFormat, text: str) -> None:
    parser = family.new_parser(FUNCTIONS)
    reply = join([*parser.push(text), *parser.flush()])
    (call,) = reply.tool_calls
    assert call.name == "weather"
    assert not call.arguments.endswith("</tool_call>")


ROUND_TRIP_TEMPLATES = [
    ("qwen2.5-7b-instruct.jinja", "qwen2", HermesFormat),
    ("qwen3-0.6b.jinja", "qwen2", HermesFormat),
    ("llama-3.1-8b-instruct.jinja", "llama3-published", Llama3Format),
]


@needs_shared
@pytest.mark.parametrize(("file_name", "tokenizer_name", "family"), ROUND_TRIP_TEMPLATES)
@pytest.mark.parametrize("num_calls", [1, 2])
def test_a_rendered_call_is_read_back(load_pair, file_name, tokenizer_name, family, num_calls):
    """Through the real template and tokenizer: text, ids, streamed decode, parser."""
    if num_calls > family.has_parallel_calls + 1:
        pytest.skip("one call a reply")
    tokenizer = shared_tokenizer(load_pair, file_name, tokenizer_name)
    assert isinstance(tokenizer.tool_calls, family)
    call = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    asked = [{"role": "user", "content": "How is the weather?"}]
    answered = [*asked, {"role": "assistant", "tool_calls": [call] * num_calls}]
    prompt, _ = tokenizer.render(asked, tools=TOOLS)
    text, _ = tokenizer.render(answered, tools=TOOLS, add_generation_prompt=False)
    assert text.startswith(prompt.removesuffix("\n"))
    end = max(text.rfind("<|im_end|>"), text.rfind("<|eot_id|>"))
    reply_ids = tokenizer.encode(text[len(prompt) : end], add_special_tokens=False)
    decoder = tokenizer.new_decoder()
    parser = tokenizer.tool_calls.new_parser(FUNCTIONS)
    deltas = [delta for token_id in reply_ids for delta in parser.push(decoder.push(token_id))]
    reply = join([*deltas, *parser.push(decoder.flush()), *parser.flush()])
    assert [(c.name, json.loads(c.arguments)) for c in reply.tool_calls] == [
        ("weather", json.loads(ARGUMENTS))
    ] * num_calls
    assert not (reply.content or "").replace("<think>", "").replace("</think>", "").strip()


def shared_tokenizer(load_pair, file_name: str, tokenizer_name: str) -> Tokenizer:
    source = (SHARED / "templates" / file_name).read_text(encoding="utf-8")
    inner = load_pair(tokenizer_name).inner
    return Tokenizer(inner, folder=SHARED / "templates", chat_template=source)


@needs_shared
def test_real_templates_are_told_apart() -> None:
    found = {
        path.stem: family.name
        for path in (SHARED / "templates").glob("*.jinja")
        if (family := detect(path.read_text(encoding="utf-8"), {})) is not None
    }
    assert found == {
        "qwen2.5-7b-instruct": "Hermes",
        "qwen3-0.6b": "Hermes",
        "llama-3.1-8b-instruct": "Llama 3",
        "chatglm3": "ChatGLM",
    }


def test_other_syntaxes_behind_known_marks_are_none_of_ours() -> None:
    assert isinstance(detect("[TOOL_CALLS] {{ calls }}", {}), MistralFormat)
    for template in (
        "<tool_call>{{ name }}<arg_key>",
        "<tool_call>\n<function=",
        "[TOOL_CALLS][ARGS]",
    ):
        assert detect(template, {}) is None


def test_a_mark_that_is_a_special_token_stays_in_the_text(byte_level_folder: Path) -> None:
    inner = AutoTokenizer.from_pretrained(byte_level_folder, local_files_only=True)
    inner.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "<|im_end|>"]})
    source = "{{ messages[0].content }}[TOOL_CALLS]{{ tools }}"
    tokenizer = Tokenizer(inner, folder=byte_level_folder, chat_template=source)
    text = '[TOOL_CALLS] [{"name": "time", "arguments": {}}]'
    token_ids = tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.tool_calls is not None
    assert calls_of(tokenizer.tool_calls.parse(text, FUNCTIONS)) == [("time", "{}")]


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        (["weather"], r"tools\[0\] must be a mapping with type"),
        ([{"type": "web_search"}], 'type "function"'),
        ([{"type": "function"}], "needs a function"),
        ([{"type": "function", "function": {"name": "a b"}}], "not 'a b'"),
        ([{"type": "function", "function": {"name": "a", "parameters": []}}], "JSON schema"),
        ([{"type": "function", "function": {"name": "a", "strict": 1}}], "true or false"),
        ([TOOLS[0], TOOLS[0]], "two functions named 'weather'"),
    ],
)
def test_malformed_tools_are_refused(tools: list, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        read_functions(tools)


def test_a_named_function_must_be_one_of_the_tools() -> None:
    assert select_function(FUNCTIONS, "time") == Function(
        name="time", parameters=FUNCTIONS[2].parameters, is_strict=False
    )
    with pytest.raises(ParameterError, match="tools has: weather, weather_at, time"):
        select_function(FUNCTIONS, "unknown")
