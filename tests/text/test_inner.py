"""A folder's tokenizer is the one that `AutoTokenizer` finds there, asked or not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from martlet.models.resolve import resolve
from martlet.text.inner import load_inner
from support.shared import SHARED, needs_shared

TEXTS = ("hi", "<s>hi", " It 's  9 o'clock ,\n\nthe 世界 é<|im_end|> \U0001f600", "")


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "TokenizersBackend"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_each_type_of_model_has_the_tokenizer_of_auto_tokenizer(
    byte_fallback_folder, byte_level_folder, tmp_path, model_type, tokenizer_class
):
    for folder in (byte_fallback_folder, byte_level_folder):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        _name_class(copy, model_type, tokenizer_class)
        _check_against_auto(copy)


@needs_shared
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_real_tokenizers_are_those_of_auto_tokenizer(llama3_published_folder, tmp_path, model_type):
    for folder in (llama3_published_folder, SHARED / "tokenizers/qwen2"):
        copy = tmp_path / folder.name
        copy.mkdir()
        for path in folder.iterdir():
            shutil.copyfile(path, copy / path.name)
        _name_class(copy, model_type, "PreTrainedTokenizerFast")
        _check_against_auto(copy)


def test_the_embedded_model_starts_without_a_look_at_all_models_of_transformers():
    code = (
        "import sys; from pathlib import Path; from martlet.text.tokenizer import Tokenizer; "
        f"Tokenizer.load(Path({str(resolve('demo'))!r})); "
        "sys.exit('transformers.models' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def _name_class(folder: Path, model_type: str, tokenizer_class: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": tokenizer_class}))


def _check_against_auto(folder: Path) -> None:
    expected = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inner = load_inner(folder, trust_remote_code=False)
    assert type(inner) is type(expected)
    assert inner.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert inner.special_tokens_map == expected.special_tokens_map
    assert inner.added_tokens_decoder == expected.added_tokens_decoder
    assert inner.chat_template == expected.chat_template
    for text in TEXTS:
        token_ids = expected.encode(text)
        assert inner.encode(text) == token_ids
        assert inner.decode(token_ids) == expected.decode(token_ids)
