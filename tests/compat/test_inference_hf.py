"""The third article's script: its flags, its files, and the faults it no longer has."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, TokenizersBackend

from chat.pseudo_terminal import CTRL_D, chat_environment, in_terminal
from compat.articles import article, needs_articles
from compat.models import model_folder
from martlet import LLM, SamplingParams
from martlet.compat.inference_hf.__main__ import INFERENCE, SAMPLING, SYSTEM, main
from martlet.errors import InputError, MartletError
from martlet.text.tokenizer import Tokenizer
from support.shared import SHARED

QUESTIONS = ("为什么要减少污染？", "What follows the word assistant?", "1 + 2 = ?")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.setenv("MARTLET_DTYPE", "fp32")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = SHARED / "templates" / "llama-3.jinja"
    template = path.read_text() if path.is_file() else None
    folder = tmp_path_factory.mktemp("llama3")
    return model_folder("llama", folder, template=template, is_brief=True)


@needs_articles
def test_every_flag_of_the_article_is_known() -> None:
    named = set(re.findall(r"\bargs\.(\w+)", article(3)))
    known = tuple(flag.name for flag in INFERENCE.flags)
    assert len(named) >= 10
    assert all(name.startswith(known) for name in named)  # the page lost the line breaks behind


@needs_articles
def test_the_articles_terminators_end_a_reply(tmp_path: Path) -> None:
    file = str(SHARED / "tokenizers" / "llama3" / "tokenizer.json")
    TokenizersBackend(tokenizer_file=file, eos_token="<|eot_id|>").save_pretrained(tmp_path)
    (code,) = re.findall(r"^tokenizer = AutoTokenizer.*\n^terminators = .*$", article(3), re.M)
    names: dict[str, Any] = {
        "AutoTokenizer": AutoTokenizer,
        "args": SimpleNamespace(tokenizer_path=tmp_path),
    }
    exec(compile(code, "article", "exec"), names)
    assert names["terminators"] == [128009, 128009]
    assert Tokenizer.load(tmp_path).stop_ids == (128009,)


def test_its_other_engines_in_modern_words(
    run: Callable[..., None],
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MARTLET_VLLM", "no-vllm-here")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hello")))
    with pytest.raises(MartletError, match="no-vllm-here"):
        run("--base_model", llama, "--interactive", "--with_prompt", "--use_vllm", "--gpus", "0,1")
    assert "--backend vllm --tensor-parallel-size 2 --system" in capsys.readouterr().err


def test_a_model_in_fewer_bits_is_stored_once(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--base_model", "demo", "--with_prompt", "--load_in_8bit")
    run(*flags, "--predictions_file", "one.json")
    assert Path("demo-int8/certificate.json").is_file()
    run(*flags, "--predictions_file", "two.json")
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()
    told = re.findall(r"^the same: martlet (\w+)", capsys.readouterr().err, re.M)
    assert told == ["quantize", "generate", "generate"]


def test_a_file_becomes_predictions(
    run: Callable[..., None], llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data.txt").write_text("".join(f"{question}\n" for question in QUESTIONS))
    flags = ("--base_model", llama, "--data_file", "data.txt", "--with_prompt", "--gpus", "0")
    run(*flags, "--predictions_file", "out/predictions.json")
    pairs = json.loads(Path("out/predictions.json").read_text())
    assert [pair["Input"] for pair in pairs] == list(QUESTIONS)
    printed = capsys.readouterr()
    for index, pair in enumerate(pairs):
        assert f"======={index}=======\nInput: {pair['Input']}\n" in printed.out
        assert f"Output: {pair['Output']}\n" in printed.out
    told = [line for line in printed.err.splitlines() if line.startswith("the same: ")]
    assert len(told) == 1
    assert "--repetition-penalty 1.1" in told[0]
    assert "--presence-penalty" not in told[0]
    config = json.loads(Path("out/generation_config.json").read_text())
    assert config == {"do_sample": True, **SAMPLING}
    card = json.loads(Path("out/predictions.jsonl.card.json").read_text())
    assert card["parameters"]["repetition_penalty"]["value"] == 1.1
    with pytest.raises(InputError, match="nothing is overwritten"):
        run(*flags, "--predictions_file", "out/predictions.json")
    # What a run that was killed had drawn is not drawn again.
    Path("out/predictions.json").unlink()
    run(*flags, "--predictions_file", "out/predictions.json")
    assert json.loads(Path("out/predictions.json").read_text()) == pairs
    assert "0 samples drawn" in capsys.readouterr().err


def test_without_a_prompt_the_text_is_continued(run: Callable[..., None], llama: Path) -> None:
    run("--base_model", llama, "--only_cpu")
    pairs = json.loads(Path("predictions.json").read_text())
    assert [pair["Input"] for pair in pairs] == ["为什么要减少污染，保护环境？", "你有什么建议？"]
    journal = Path("predictions.jsonl.card.json").read_text()
    assert json.loads(journal)["options"]["is_raw"] is True


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("", "name the model with --base_model"),
        ("--base_model demo --interactive", "add --with_prompt"),
        ("--base_model demo --load_in_4bit --load_in_8bit", "not both"),
        ("--base_model demo --gpus 0,1", "several --gpus are for --use_vllm"),
        ("--base_model demo --lora_model x", "knows no --lora_model; did you mean --base_model?"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Callable[..., None], flags: str, sentence: str
) -> None:
    with pytest.raises(MartletError, match=re.escape(sentence)):
        run(*flags.split())


def test_a_conversation_remembers(llama: Path, tmp_path: Path) -> None:
    """Two turns typed at a terminal; the second reply is that to the whole conversation."""
    command = [sys.executable, "-m", "martlet.compat.inference_hf", "--base_model", str(llama)]
    settings = {
        "MARTLET_DTYPE": "fp32",
        "MARTLET_SEED": "7",
        "MARTLET_KV_MEMORY": "0.05",
        "TERM": "xterm-256color",
    }
    environment = {**chat_environment(tmp_path / "state"), **settings}
    saved = tmp_path / "said.jsonl"
    with in_terminal([*command, "--interactive", "--with_prompt"], environment) as terminal:
        for question in ("1 + 2 = ?", "谁？"):
            terminal.wait_for("base> ")
            terminal.say(question)
            terminal.wait_for(r"context \d+ of")
        terminal.wait_for("base> ")
        terminal.say(f"/save {saved}")
        terminal.wait_for("saved as line[^>]*> ")
        terminal.press(CTRL_D)
        assert terminal.wait() == 0
    *asked, reply = json.loads(saved.read_text().splitlines()[-1])["messages"]
    assert [turn["role"] for turn in asked] == ["system", "user", "assistant", "user"]
    assert asked[0]["content"] == SYSTEM
    settings_ = {name: value for name, value in SAMPLING.items() if name != "max_new_tokens"}
    params = SamplingParams(**settings_, max_tokens=400, seed=7)
    (output,) = LLM(str(llama), dtype="fp32").chat([asked], params)
    assert reply["content"] == output.outputs[0].text
