"""The chat template renders as transformers renders it, or says why not."""

import pytest
from transformers import AutoTokenizer

from martlet.errors import ParameterError, TemplateError
from martlet.text.tokenizer import Tokenizer
from support.shared import SHARED, needs_shared
from support.tool_template import TOOL

CONVERSATION = (
    {"role": "system", "content": "答题。"},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "再来 👧"},
)
HELLO = ({"role": "user", "content": "Hello"},)


def assistant_call(arguments):
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def with_template(folder, source):
    return Tokenizer.load(folder, chat_template=source)


def test_text_and_ids_are_those_of_transformers(byte_level, load_pair):
    inner = load_pair("byte-level").inner
    for add_generation_prompt in (True, False):
        options = {"add_generation_prompt": add_generation_prompt}
        text, token_ids = byte_level.render(CONVERSATION, **options)
        assert text == inner.apply_chat_template(CONVERSATION, tokenize=False, **options)
        expected = inner.apply_chat_template(CONVERSATION, return_dict=True, **options)
        assert list(token_ids) == expected["input_ids"]


@needs_shared
@pytest.mark.parametrize(
    ("file_name", "end_of_turn"),
    [
        ("qwen2-1.5b-instruct.jinja", "<|im_end|>"),
        ("qwen2.5-7b-instruct.jinja", "<|im_end|>"),
        ("qwen3-0.6b.jinja", "<|im_end|>"),
        ("chatml.jinja", "<|im_end|>"),
        ("llama-3.jinja", "<|eot_id|>"),
        ("llama-3.1-8b-instruct.jinja", "<|eot_id|>"),
        ("chatglm3.jinja", None),
    ],
)
def test_real_templates(load_pair, file_name, end_of_turn):
    source = (SHARED / "templates" / file_name).read_text(encoding="utf-8")
    inner = load_pair("llama3-published" if "llama" in file_name else "qwen2").inner
    tokenizer = Tokenizer(inner, folder=SHARED / "templates", chat_template=source)
    text, token_ids = tokenizer.render(CONVERSATION)
    expected = inner.apply_chat_template(
        CONVERSATION, chat_template=source, add_generation_prompt=True, return_dict=True
    )
    assert list(token_ids) == expected["input_ids"]
    assert "再来 👧" in text
    named = [
        inner.convert_ids_to_tokens(token_id)
        for token_id, sources in tokenizer.stop_id_sources.items()
        if "chat template" in sources
    ]
    assert named == ([] if end_of_turn is None else [end_of_turn])


def test_a_missing_template_says_what_to_do(byte_fallback):
    assert not byte_fallback.has_template
    assert byte_fallback.template is None
    assert byte_fallback.template_hash == ""
    with pytest.raises(TemplateError) as caught:
        byte_fallback.render(HELLO)
    for part in (str(byte_fallback.folder), "chat_template.jinja", "--chat-template", "--raw"):
        assert part in str(caught.value)


def test_a_template_may_be_given(byte_level_folder, byte_level):
    tokenizer = with_template(byte_level_folder, "{{ messages[0].content }}!")
    assert tokenizer.render(HELLO)[0] == "Hello!"
    assert tokenizer.template == "{{ messages[0].content }}!"
    assert tokenizer.template_hash != byte_level.template_hash
    assert len(tokenizer.template_hash) == 16


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alt"),
        ("{{ messages[0].content + 1 }}", "refuses the messages"),
        ("{% if %}", "not valid Jinja, line 1"),
    ],
)
def test_a_refusal_is_passed_on(byte_level_folder, source, reason):
    tokenizer = with_template(byte_level_folder, source)
    assert tokenizer.has_template
    with pytest.raises(TemplateError, match=reason):
        tokenizer.render(HELLO)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        (["Hello"], r"messages\[0\] must be a mapping"),
        ([*HELLO, {"content": "x"}], r"messages\[1\] needs a role"),
        ([{"role": 3, "content": "x"}], "its role is 3"),
        ([{"role": "user"}], "needs a content"),
        ([{"role": "user", "content": None}], "needs a content"),
        ([{"role": "user", "content": 3}], "one text, not int"),
        ([{"role": "user", "content": ["x"]}], "part 0, must be"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "part 0, is 'image_url'"),
        ([{"role": "assistant", "tool_calls": "f"}], "a list of calls"),
        ([{"role": "assistant", "tool_calls": [{"name": "f"}]}], "tool_calls of .* must be"),
        ([assistant_call("{")], "are not JSON"),
        ([assistant_call("[1]")], "must be a JSON object"),
    ],
)
def test_malformed_messages_are_refused(byte_level, messages, reason):
    with pytest.raises(TemplateError, match=reason):
        byte_level.render(messages)


def test_a_tool_call_needs_no_content_and_its_arguments_become_an_object(byte_level_folder):
    source = (
        "{% for m in messages %}[{{ m.role }}:{{ m.content }}:"
        "{{ m.tool_calls[0].function.arguments.place }}]{% endfor %}"
    )
    tokenizer = with_template(byte_level_folder, source)
    for arguments in ('{"place": "Rome"}', {"place": "Rome"}):
        assert tokenizer.render([assistant_call(arguments)])[0] == "[assistant::Rome]"


def test_text_parts_are_joined(byte_level):
    parts = [{"type": "text", "text": "1 + 1"}, {"type": "text", "text": " = ?"}]
    turn = {"role": "user", "content": parts}
    assert byte_level.render([turn]) == byte_level.render(
        [{"role": "user", "content": "1 + 1 = ?"}]
    )


def test_tools_are_shown_to_the_model_or_refused(byte_level_folder, byte_level):
    tool = {"type": "function", "function": {"name": "weather"}}
    source = "{% if tools %}{{ tools[0].function.name }}: {% endif %}{{ messages[0].content }}"
    assert (
        with_template(byte_level_folder, source).render(HELLO, tools=[tool])[0] == "weather: Hello"
    )
    with pytest.raises(TemplateError, match="does not show tools to the model"):
        byte_level.render(HELLO, tools=[tool])
    with pytest.raises(ParameterError, match=r"tools\[0\]"):
        byte_level.render(HELLO, tools=[{"name": "weather"}])


def test_variables_reach_the_template_or_are_refused(byte_level_folder):
    tokenizer = with_template(byte_level_folder, "{{ messages[0].content }}{{ mood }}")
    assert tokenizer.render(HELLO, variables={"mood": "!"})[0] == "Hello!"
    for name in ("mod", "messages", "tokenize"):
        with pytest.raises(TemplateError, match=f"does not look at a variable '{name}'"):
            tokenizer.render(HELLO, variables={name: "!"})


@needs_shared
@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("qwen2.5-7b-instruct.jinja", "<tool_response>\n21 degrees\n</tool_response>"),
        ("qwen3-0.6b.jinja", "<tool_response>\n21 degrees\n</tool_response>"),
        ("llama-3.1-8b-instruct.jinja", "<|start_header_id|>ipython<|end_header_id|>"),
    ],
)
def test_a_conversation_with_tools_is_rendered(load_pair, file_name, expected):
    source = (SHARED / "templates" / file_name).read_text(encoding="utf-8")
    inner = load_pair("llama3-published" if "llama" in file_name else "qwen2").inner
    tokenizer = Tokenizer(inner, folder=SHARED / "templates", chat_template=source)
    tool = {"type": "function", "function": {"name": "weather", "description": "Of a place."}}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "21 degrees"}
    turns = [*HELLO, assistant_call('{"place": "Rome"}'), result]
    text, _ = tokenizer.render(turns, tools=[tool])
    for part in ('{"place": "Rome"}', "Of a place.", expected):
        assert part in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m.content }} <|im_end|>\n{% endfor %}", "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}<|思考|>{% endfor %}", "<|思考|>"),
        ("{% for m in messages %}{{ m.content }}</turn>{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }}. <|im_end|>{% endfor %}", None),
        ("{{ raise_exception('only images') }}", None),
    ],
)
def test_only_the_token_right_behind_the_reply_ends_a_turn(byte_level_folder, source, expected):
    tokenizer = with_template(byte_level_folder, source)
    named = [
        tokenizer.decode([token_id], skip_special_tokens=False)
        for token_id, sources in tokenizer.stop_id_sources.items()
        if "chat template" in sources
    ]
    assert named == ([] if expected is None else [expected])


def test_the_default_of_several_templates_is_taken(byte_level_folder):
    inner = AutoTokenizer.from_pretrained(byte_level_folder, local_files_only=True)
    shown = "{{ messages[0].content }}{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
    inner.chat_template = {"default": "plain", "tool_use": shown}
    named = Tokenizer(inner, folder=byte_level_folder)
    assert named.template == "plain"
    asked = [{"role": "user", "content": "Go "}]
    assert named.render(asked, add_generation_prompt=True)[0] == "plain"
    assert named.render(asked, add_generation_prompt=True, tools=[TOOL])[0] == "Go move"
    only = Tokenizer(inner, folder=byte_level_folder, chat_template="plain")
    assert named.template_hash != only.template_hash
    inner.chat_template = {"tool_use": "tools"}
    assert not Tokenizer(inner, folder=byte_level_folder).has_template
