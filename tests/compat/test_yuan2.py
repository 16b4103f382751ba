"""The second article's conversation: Yuan2's tokens, its rule, and no end after four turns."""

import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from compat.articles import article, needs_articles, unfolded
from compat.models import make_brief
from martlet import LLM, SamplingParams
from martlet.compat.yuan2 import ADDED_TOKENS, main, translated, write_tokenizer
from martlet.errors import InputError, MartletError, TemplateError
from martlet.text.messages import Message
from martlet.text.tokenizer import Tokenizer
from support.shared import SHARED, needs_shared

TURNS: list[Message] = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "冒泡排序怎么写？"},
    {"role": "assistant", "content": "两层循环。"},
]


LOADING = [
    (0, 'print("Creat tokenizer'),
    (0, "tokenizer ="),
    (0, "tokenizer.add_tokens"),
    (0, 'print("Creat model'),
    (0, "model ="),
    (0, 'print("Done'),
]


@pytest.fixture(scope="module")
def yuan2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yuan2's own tokenizer, as it is published, with a tiny random model."""
    folder = tmp_path_factory.mktemp("models") / "Yuan2-2B-Mars-hf"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=135040,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=1100,
            eos_token_id=77185,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_brief(folder, config.eos_token_id)
    for path in (SHARED / "tokenizers" / "yuan2").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def completed(yuan2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completed") / "tokenizer"
    write_tokenizer(yuan2, folder)
    return folder


@needs_articles
def test_the_tokens_are_the_articles() -> None:
    (added,) = set(re.findall(r"add_tokens\(\[(.*?)\]", article(2)))
    assert tuple(re.findall(r"'(<\w+>)'", added)) == ADDED_TOKENS


@needs_shared
def test_a_conversation_is_worded_by_yuan2s_rule(yuan2: Path, completed: Path) -> None:
    tokenizer = Tokenizer.load(completed)
    prompt, prompt_ids = tokenizer.render(TURNS[:3])
    assert prompt == "你好<n>你好！<n>冒泡排序怎么写？<sep>"
    assert prompt_ids[-1] == 77187  # <sep>, one token
    learned, learned_ids = tokenizer.render(TURNS, add_generation_prompt=False)
    assert learned == f"{prompt}两层循环。<eod>"
    assert learned_ids[: len(prompt_ids)] == prompt_ids
    assert learned_ids[-1] in tokenizer.stop_ids
    assert tokenizer.stop_ids == (77185,)
    with pytest.raises(TemplateError, match="leave the system message out"):
        tokenizer.render([{"role": "system", "content": "x"}, *TURNS[:1]])
    with pytest.raises(InputError, match="nothing is overwritten"):
        write_tokenizer(yuan2, completed)
    config = json.loads((yuan2 / "tokenizer_config.json").read_text())
    assert config["eos_token"]["content"] == "</s>"  # the published folder stays as it is


@needs_articles
def test_the_demos_own_loading_and_drawing_give_the_same_replies(
    yuan2: Path, completed: Path
) -> None:
    """Its way to a model and a tokenizer, and its three cures of a conversation too long."""
    text = article(2)
    start = text.index(LOADING[0][1])
    mashed = text[start : text.index("return tokenizer, model", start)]
    names = {
        "path": yuan2,
        "torch_dtype": torch.float32,
        "AutoTokenizer": AutoTokenizer,
        "AutoModelForCausalLM": AutoModelForCausalLM,
    }
    exec(compile(unfolded(mashed.replace(".cuda()", ""), LOADING), "article", "exec"), names)
    llm = LLM(str(yuan2), tokenizer=str(completed), dtype="fp32")
    (reply,) = llm.chat([TURNS[:3]], SamplingParams(temperature=0, max_tokens=900))
    tokenizer: Any = names["tokenizer"]
    prompt_ids = tokenizer("<n>".join(turn["content"] for turn in TURNS[:3]) + "<sep>").input_ids
    assert tuple(prompt_ids) == tuple(reply.prompt_token_ids)
    cures = re.findall(r"^(?:if inputs.shape.*\n)?(?:inputs = .*\n)?outputs = .*$", text, re.M)
    assert len(cures) == 3
    for cure in cures:
        names["inputs"] = torch.tensor([prompt_ids])
        exec(compile(cure.replace("\ninputs", "\n    inputs"), "article", "exec"), names)
        (outputs,) = names["outputs"].tolist()  # type: ignore[attr-defined]
        assert outputs[len(prompt_ids) :] == list(reply.outputs[0].token_ids)


@needs_shared
def test_a_question_is_answered_on_one_tokenizer(
    yuan2: Path,
    completed: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["--path", str(yuan2), "--tokenizer_dir", str(completed)]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("你好".encode())))
    main(["chat", *flags])
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert "tokenizer with all tokens" not in printed.err
    page = shlex.join(translated(["page", *flags, "--server.port", "6007"]))
    assert "--context-policy drop-old-turns --host 127.0.0.1 --port 6007" in page


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say how to talk to Yuan2: chat, or page"),
        (["chat", "--server.port", "6006"], "yuan2 chat knows no --server.port"),
        (["chat", "--path", "nowhere"], "no tokenizer in nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(MartletError, match=re.escape(sentence)):
        main(arguments)
