"""`martlet chat` as a person sees it, in a pseudo-terminal, and as a pipe does."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat.pseudo_terminal import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    ENTER,
    TAB,
    UP,
    Terminal,
    chat_command,
    chat_environment,
    chatting,
)
from martlet import LLM, SamplingParams
from martlet.demo import model_path
from martlet.models.folder import open_folder
from support.adapters import make_adapter

QUESTION = "Anna sits left of Bo. Who sits on the right?"
GREEDY = SamplingParams(temperature=0, max_tokens=24)
EXACT = ("--demo", "--dtype", "fp32", "--kv-memory", 0.05, "--temperature", 0, "--max-tokens", 24)
STATISTICS = r"\d+ tokens?( · [\d,]+ tokens/s)? · first after [\d.]+ s · context \d+ of 512[^\n]*\n"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "judge"
    return make_adapter(folder, open_folder(model_path()), r=4, target_modules="all-linear")


@pytest.fixture(scope="module")
def llm(judge: Path) -> LLM:
    return LLM("demo", dtype="fp32", kv_memory_gib=0.05, adapters={"judge": str(judge)})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def saved(terminal: Terminal, path: Path) -> list[dict[str, str]]:
    """The conversation as the program itself writes it down."""
    terminal.say(f"/save {path}")
    terminal.wait_for("saved as line[^>]*> ")
    messages: list[dict[str, str]] = json.loads(path.read_text().splitlines()[-1])["messages"]
    return messages


def test_a_conversation_with_an_adapter(llm: LLM, judge: Path, state: Path, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": QUESTION}]
    by_judge, by_base = (
        llm.chat(asked, GREEDY, adapter=name)[0].outputs[0].text for name in ("judge", None)
    )
    assert by_judge != by_base
    with chatting(*EXACT, "--adapter", f"judge={judge}", state=state) as terminal:
        terminal.wait_for("judge> ")
        terminal.say(QUESTION)
        terminal.wait_for(STATISTICS)
        terminal.wait_for("judge> ")
        assert saved(terminal, tmp_path / "1.jsonl")[-1]["content"] == by_judge
        terminal.say("/adapter base")
        terminal.wait_for("base answers; there are base, judge")
        terminal.wait_for("base> ")
        terminal.say("/retry")
        shown = terminal.wait_for(STATISTICS)
        assert by_base.split()[0] in shown
        assert saved(terminal, tmp_path / "2.jsonl")[-1]["content"] == by_base
        terminal.say("/compare")
        shown = terminal.wait_for(f"base: {STATISTICS}judge: {STATISTICS}")
        assert "│" in shown
        assert by_judge.split()[0] in shown
        terminal.wait_for("base> ")
        terminal.press(CTRL_D)
        assert terminal.wait() == 0
    history = state / "martlet" / "chat_history"
    assert history.read_text().splitlines()[:1] == [QUESTION]
    assert history.stat().st_mode & 0o077 == 0


def test_lines_are_edited_remembered_and_joined(state: Path, tmp_path: Path) -> None:
    with chatting(*EXACT, state=state) as terminal:
        terminal.wait_for("base> ")
        terminal.type("/tok" + TAB + ENTER)
        terminal.wait_for("room 512")
        terminal.wait_for("base> ")
        terminal.say("first\\")
        terminal.wait_for("… ")
        terminal.type("second" + ALT_ENTER)
        terminal.wait_for("… ")
        terminal.say("third")
        terminal.wait_for(STATISTICS)
        terminal.wait_for("base> ")
        terminal.say('"""one')
        terminal.wait_for("… ")
        terminal.say("")
        terminal.wait_for("… ")
        terminal.say('two"""')
        terminal.wait_for(STATISTICS)
        terminal.wait_for("base> ")
        messages = saved(terminal, tmp_path / "rows.jsonl")
        assert [turn["content"] for turn in messages[::2]] == ["first\nsecond\nthird", "one\n\ntwo"]
        terminal.say("/new")
        terminal.wait_for("base> ")
        terminal.say("Hello")
        terminal.wait_for(STATISTICS)
        terminal.wait_for("base> ")
        terminal.say("/edit")
        terminal.wait_for("base> Hello")
        terminal.press(" again" + ENTER)
        terminal.wait_for(STATISTICS)
        terminal.wait_for("base> ")
        (question, _) = saved(terminal, tmp_path / "edited.jsonl")
        assert question["content"] == "Hello again"
        terminal.say("/quit")
        assert terminal.wait() == 0
    with chatting(*EXACT, state=state) as terminal:
        terminal.wait_for("base> ")
        terminal.type(UP + UP)
        terminal.wait_for(r"save \S+edited.jsonl")
        terminal.press(CTRL_C)
        terminal.wait_for("Ctrl-C again, or Ctrl-D, leaves")
        terminal.wait_for("base> ")
        terminal.say("/sistem")
        terminal.wait_for("did you mean /system")


def test_ctrl_c_stops_a_reply_and_twice_at_the_prompt_leaves(state: Path, tmp_path: Path) -> None:
    endless = ("--demo", "--ignore-eos", "--kv-memory", 0.05, "--seed", 1)
    with chatting(*endless, state=state) as terminal:
        terminal.wait_for("base> ")
        terminal.say("Hello")
        terminal.wait_for(r"Hello\n\s*\S")
        terminal.type(CTRL_C)
        terminal.wait_for(STATISTICS.replace(r"[^\n]*", r"[^\n]* ·\s+stopped"))
        terminal.wait_for("base> ")
        _, reply = saved(terminal, tmp_path / "rows.jsonl")
        assert reply["content"], "what was said stays in the conversation"
        terminal.say("/set ignore_eos false")
        terminal.wait_for("base> ")
        terminal.say("Hello again")
        terminal.wait_for(STATISTICS)
        terminal.wait_for("base> ")
        terminal.press(CTRL_C)
        terminal.wait_for("leaves[^>]*base> ")
        terminal.press(CTRL_C)
        assert terminal.wait() == 0


@pytest.fixture
def endless(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = chat_command("--demo", "--ignore-eos", "--kv-memory", 0.05)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=chat_environment(state),
    )
    assert process.stdin is not None
    process.stdin.write(b"Hello\n")
    process.stdin.close()
    yield process
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


def test_a_pipe_gets_the_reply_alone(llm: LLM, state: Path) -> None:
    question = f"# Not a heading\n/help is no command here.\n{QUESTION}"
    asked = [{"role": "user", "content": question}]
    expected = llm.chat(asked, GREEDY)[0].outputs[0].text
    done = subprocess.run(
        chat_command(*EXACT),
        input=f"{question}\n",
        capture_output=True,
        text=True,
        env=chat_environment(state),
        check=True,
    )
    assert done.stdout == f"{expected.rstrip()}\n"
    assert "tokens/s" in done.stderr
    assert not state.exists(), "a pipe leaves no history"


def test_a_stopped_filter_is_no_success(endless: subprocess.Popen[bytes]) -> None:
    assert endless.stdout is not None
    assert endless.stderr is not None
    begun = endless.stdout.read(1)
    endless.send_signal(signal.SIGINT)
    rest = endless.stdout.read()
    assert begun + rest
    assert endless.wait(timeout=30) == 130
    assert b"the reply is not whole" in endless.stderr.read()


def test_a_reader_that_leaves_ends_the_filter(endless: subprocess.Popen[bytes]) -> None:
    assert endless.stdout is not None
    assert endless.stderr is not None
    endless.stdout.read(1)
    endless.stdout.close()
    assert endless.wait(timeout=30) != 0
    assert b"Traceback" not in endless.stderr.read()
