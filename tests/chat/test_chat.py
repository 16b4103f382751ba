"""A chat in this process: what it draws, keeps, drops, writes and refuses."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from chat.conversations import SYSTEM, conversation, visible_turns
from martlet import LLM, SamplingParams
from martlet.backends.base import SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions
from martlet.cli.terminal.chat import Chat
from martlet.cli.terminal.commands import completions, run_command
from martlet.cli.terminal.dialogue import Dialogue
from martlet.cli.terminal.settings import Settings
from martlet.errors import MartletError, PromptTooLongError
from martlet.models.folder import ModelFolder
from martlet.text.conversation import ContextPolicy
from serve.servers import load_demo


@pytest.fixture(scope="module")
def backend() -> Iterator[NativeBackend]:
    backend = load_demo()
    yield backend
    backend.close()


def make_chat(
    backend: NativeBackend,
    *,
    policy: ContextPolicy = "drop-old-turns",
    system: str | None = None,
    **given: object,
) -> Chat:
    return Chat(
        backend=backend,
        adapters=[],
        settings=Settings(given, backend.default_params, policy=policy),
        dialogue=Dialogue(system=system),
        out=Console(file=io.StringIO()),
        talk=Console(file=io.StringIO(), width=200),
    )


def told(console: Console) -> str:
    """What was written to a console since the last look at it."""
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    file.truncate(0)
    file.seek(0)
    return text


def obey(chat: Chat, line: str) -> str:
    run_command(chat, line)
    return told(chat.talk)


def test_three_hundred_turns_never_lose_the_system_message(
    tiny_llama: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BackendOptions(dtype="fp32", kv_memory_gib=0.05)
    backend = load_backend(str(tiny_llama.path), options=options)
    assert isinstance(backend, NativeBackend)
    prompts: list[str] = []
    submit = backend.submit

    def watched(request: SampleRequest) -> None:
        prompt = backend.tokenizer.decode(request.prompt_ids, skip_special_tokens=False)
        prompts.append(prompt)
        submit(request)

    monkeypatch.setattr(backend, "submit", watched)
    chat = make_chat(backend, system=SYSTEM, max_tokens=2, ignore_eos=True)
    for number in range(300):
        reply = chat.ask(f"Question <{number}>." + " More." * 3)
        first = reply.use.num_dropped_turns
        assert f"system\n{SYSTEM}" in prompts[-1]
        assert list(visible_turns(prompts[-1], number + 1)) == [*range(first, number + 1)]
        assert reply.num_tokens == 2
    assert first > 250
    assert f"{first} old turns dropped" in told(chat.talk)
    assert len(chat.dialogue.turns) == 600, "what the model no longer sees is not forgotten"
    backend.close()


def test_replies_are_those_of_python_and_retry_draws_the_next(backend: NativeBackend) -> None:
    question = "Anna sits left of Bo. Who sits on the right?"
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    llm = LLM("demo", dtype="fp32", kv_memory_gib=0.05)
    params = SamplingParams(n=3, seed=5, temperature=0.7, max_tokens=12)
    expected = [sample.text for sample in llm.chat(messages, params)[0].outputs]
    assert len(set(expected)) > 1
    chat = make_chat(backend, system=SYSTEM, seed=5, max_tokens=12)
    replies = [chat.ask(question).text]
    for _ in range(2):
        run_command(chat, "/retry")
        replies.append(str(chat.dialogue.turns[-1]["content"]))
    assert replies == expected
    assert [turn["role"] for turn in chat.dialogue.messages] == ["system", "user", "assistant"]
    assert told(chat.out) == "".join(f"{text.rstrip()}\n" for text in expected)
    assert "tokens/s · first after" in told(chat.talk)
    messages[-1] = {"role": "user", "content": "Hello"}
    edited = chat.ask("Hello", again=True).text
    assert edited == llm.chat(messages, params)[0].outputs[0].text
    assert chat.dialogue.turns[0] == messages[-1]


def test_a_question_that_cannot_be_asked_leaves_no_trace(backend: NativeBackend) -> None:
    chat = make_chat(backend, policy="error", max_tokens=20)
    chat.ask("Hello")
    before = list(chat.dialogue.turns)
    with pytest.raises(PromptTooLongError, match="the context policy drop-old-turns"):
        chat.ask("a" * 600)
    with pytest.raises(PromptTooLongError):
        chat.ask("a" * 600, again=True)
    assert chat.dialogue.turns == before


def test_settings_are_effective_and_say_where_they_come_from(backend: NativeBackend) -> None:
    chat = make_chat(backend, top_p=0.9)
    rows = {row.split()[0]: " ".join(row.split()[1:]) for row in obey(chat, "/set").splitlines()}
    assert rows["temperature"] == "0.7 generation_config.json"
    assert rows["top_p"] == "0.9 command line"
    assert rows["context_policy"] == "drop-old-turns"
    assert obey(chat, "/set temperature 0.2").split() == ["temperature", "0.2", "/set"]
    obey(chat, "/set top_p=0.5")
    obey(chat, '/set stop ["###", "END"]')
    assert chat.settings.params.stop == ("###", "END")
    assert (chat.settings.params.temperature, chat.settings.params.top_p) == (0.2, 0.5)
    assert "command line" in obey(chat, "/set top_p default")
    obey(chat, "/set context_policy error")
    assert chat.settings.policy == "error"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/tokns", "unknown command /tokns; did you mean /tokens?"),
        ("/", "known: /help, /system, /set"),
        ("/set temprature 1", "unknown setting temprature; did you mean temperature?"),
        ("/set n 2", "unknown setting n; "),
        ("/set temperature -1", "temperature must be from 0 to 1000, not -1"),
        ("/set temperature warm", "temperature must be a number"),
        ("/set temperature", "/set temperature needs a value"),
        ("/set context_policy drop", "drop-old-turns, keep-system+tail, error, not 'drop'"),
        ("/adapter jugde", "unknown adapter jugde; known: base"),
        ("/compare Hello", "start with --adapter NAME=DIR"),
        ("/retry", "nothing was asked yet"),
        ("/retry now", "/retry takes nothing behind it, not now"),
        ("/save rows.jsonl", "nothing to save"),
        ("/save", "it is /save FILE"),
        ("/load nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("/load rows.jsonl x", "the number of a line, not x"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    backend: NativeBackend, line: str, sentence: str
) -> None:
    chat = make_chat(backend)
    settings = chat.settings.rows()
    with pytest.raises(MartletError) as caught:
        run_command(chat, line)
    assert sentence in str(caught.value)
    assert chat.settings.rows() == settings


def test_saved_rows_are_added_and_can_be_gone_on_from(
    backend: NativeBackend, tmp_path: Path
) -> None:
    path = tmp_path / "my rows.jsonl"
    path.write_text('{"messages": []}', encoding="utf-8")
    chat = make_chat(backend, system=SYSTEM, max_tokens=6, temperature=0)
    chat.ask("谁在5号位？")
    assert f"line 2 of {path}" in obey(chat, f"/save '{path}'").replace("\n", "")
    messages = chat.dialogue.messages
    chat.ask("Another one")
    obey(chat, f"/save '{path}'")
    rows = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(row) for row in rows[1:]] == [
        {"messages": messages},
        {"messages": chat.dialogue.messages},
    ]
    assert "谁在5号位" in rows[1], "as it was typed"
    other = make_chat(backend)
    obey(other, f"/load '{path}' 2")
    assert other.dialogue.messages == messages
    obey(other, f"/load '{path}'")
    assert other.dialogue.messages == chat.dialogue.messages
    for line, sentence in ((1, "line 1: a conversation is"), (9, "3 lines, and no line 9")):
        with pytest.raises(MartletError, match=sentence):
            run_command(other, f"/load '{path}' {line}")
    assert other.dialogue.messages == chat.dialogue.messages


def test_tokens_adds_up(backend: NativeBackend) -> None:
    chat = make_chat(backend, system=SYSTEM)
    assert "▓ 0 of 0 turns 0" in obey(chat, "/tokens")
    chat.load(Dialogue.of(conversation(40)[:-1]))
    drawn = obey(chat, "/tokens")
    use = chat.speaker.fit(chat.dialogue.messages, max_tokens=None, policy="drop-old-turns").use
    seen = 40 - use.num_dropped_turns
    assert f"{use.num_prompt_tokens} of 512 tokens" in drawn
    assert f"{seen} of 40 turns" in drawn
    assert f"room {use.num_room_tokens}" in drawn
    assert f"drop-old-turns: {use.num_dropped_turns} old turns dropped" in drawn
    bar = drawn.splitlines()[0].split()[0]
    assert bar.count("░") == round(40 * use.num_room_tokens / 512)
    assert len(bar) in range(39, 42)


def test_new_keeps_the_system_message_and_system_changes_it(backend: NativeBackend) -> None:
    chat = make_chat(backend, system=SYSTEM, max_tokens=2)
    chat.ask("Hello")
    obey(chat, "/new")
    assert chat.dialogue.messages == [{"role": "system", "content": SYSTEM}]
    assert "poet" in obey(chat, "/system You are a poet.")
    assert chat.dialogue.system == "You are a poet."
    assert "none" in obey(chat, "/system -")
    assert chat.dialogue.system is None


def test_words_are_completed(backend: NativeBackend) -> None:
    chat = make_chat(backend)
    assert "/tokens" in completions(chat, "")
    assert "top_p" in completions(chat, "/set ")
    assert completions(chat, "/set top_p ") == ()
    assert completions(chat, "/adapter ") == ["base"]
