"""The fourth article's training: its prompt, and the example's run to a proven adapter."""

import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from compat.articles import article, needs_articles, unfolded
from martlet.lora.provenance import read_provenance
from martlet.models.context import context_limit
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.nf4 import load_nf4
from martlet.models.pretrained import load_config
from martlet.models.resolve import resolve

# PEFT and bitsandbytes lag behind what transformers and torch deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.checkpoint"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "summarize_dialogues.py"
LINES = [
    (0, "def create_prompt_formats"),
    (1, '"""'),
    (1, "INTRO_BLURB ="),
    (1, "INSTRUCTION_KEY ="),
    (1, "RESPONSE_KEY ="),
    (1, "END_KEY ="),
    (1, "blurb ="),
    (1, "instruction ="),
    (1, "input_context ="),
    (1, "response ="),
    (1, "end ="),
    (1, "parts ="),
    (1, "formatted_prompt ="),
    (1, "sample["),
    (1, "return sample"),
]
FOUR_BITS = [
    (0, "compute_dtype ="),
    (0, "bnb_config ="),
    (0, "model_name="),
    (0, "device_map ="),
    (0, "original_model ="),
]
LONGEST = [
    (0, "def get_max_length"),
    (1, "conf ="),
    (1, "max_length = None"),
    (1, "for length_setting"),
    (2, "max_length ="),
    (2, "if max_length"),
    (3, "print("),
    (3, "break"),
    (1, "if not max_length"),
    (2, "max_length ="),
    (2, "print("),
]


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    rows = (
        {
            "id": f"train_{number}",
            "dialogue": f"#Person1#: Is {number} odd?\n#Person2#: {'Yes' if number % 2 else 'No'}.",
            "summary": f"They talk about {number}.",
            "topic": "numbers",
        }
        for number in range(120)
    )
    path = tmp_path / "dialogues.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def rows_of_example(dialogues: Path) -> list[Mapping[str, str]]:
    return list(runpy.run_path(str(EXAMPLE))["rows_of"](str(dialogues)))


@needs_articles
def test_the_prompt_is_the_articles(dialogues: Path) -> None:
    text = article(4)
    start = text.index("def create_prompt_formats")
    mashed = text[start : text.index("#数据截断")]
    names: dict[str, object] = {}
    exec(compile(unfolded(mashed, LINES), "article", "exec"), names)
    samples = map(json.loads, dialogues.read_text().splitlines())
    for sample, row in zip(samples, rows_of_example(dialogues), strict=True):
        formatted = names["create_prompt_formats"](sample)["text"]  # type: ignore[operator]
        # The model's own end token takes the place of the heading at the end.
        assert formatted == f"{row['prompt']}{row['completion']}\n\n### End"


@needs_articles
def test_the_rows_are_those_that_the_article_loads(
    dialogues: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (code,) = re.findall(r"^huggingface_dataset_name = .*?\[0\]\)$", article(4), re.M | re.S)
    names: dict[str, Any] = {"load_dataset": load_dataset}
    exec(code.replace("neil-code/dialogsum-test", str(dialogues.parent)), names)
    for loaded, row in zip(names["dataset"]["train"], rows_of_example(dialogues), strict=True):
        assert loaded["dialogue"] in row["prompt"]
        assert loaded["summary"] == row["completion"]


@needs_articles
def test_the_base_is_rounded_to_the_articles_four_bits(tiny_llama: ModelFolder) -> None:
    text = article(4)
    mashed = text[text.index("compute_dtype =") : text.index("\n\nBitsAndBytesConfig")]
    code = unfolded(mashed, FOUR_BITS).replace(r"r'D:\临时模型\Meta-Llama-3-8B-Instruct'", "PATH")
    names: dict[str, Any] = {
        "PATH": str(tiny_llama.path),
        "AutoModelForCausalLM": AutoModelForCausalLM,
        "BitsAndBytesConfig": BitsAndBytesConfig,
        "torch": torch,
    }
    # Of its arguments transformers has since dropped one.
    code = code.replace('{"": 0}', '{"": "cpu"}').replace(",use_auth_token=True", "")
    exec(code, names)
    model = names["original_model"]
    own = load_nf4(tiny_llama, dtype=model.dtype, device=torch.device("cpu"))
    codes, expected = (
        {name: value for name, value in each.named_parameters() if value.dtype == torch.uint8}
        for each in (own, model)
    )
    assert codes.keys() == expected.keys()
    assert len(codes) == 7 * own.config.num_hidden_layers
    for name, value in codes.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@needs_articles
def test_the_longest_sample_is_what_the_article_finds(capsys: pytest.CaptureFixture[str]) -> None:
    text = article(4)
    names: dict[str, Any] = {}
    exec(unfolded(text[text.index("def get_max_length") :].strip(), LONGEST), names)
    config = load_config(open_folder(resolve("demo")), trust_remote_code=False)
    names["get_max_length"](SimpleNamespace(config=config))
    assert capsys.readouterr().out == f"Found max lenth: {context_limit(config)}\n"


def test_the_example_trains_a_proven_adapter(
    dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sum"
    given = ["--model", "demo", "--data", str(dialogues), "--out", str(out), "--max-steps", "2"]
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *given])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    provenance = read_provenance(out)
    assert provenance is not None
    assert provenance.base_quantization == "nf4"
    assert provenance.proof is not None
    assert provenance.proof.passed
