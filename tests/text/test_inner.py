"""A folder's tokenizer is the one that `AutoTokenizer` finds there, asked or not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer as BackendTokenizer
from transformers import AutoTokenizer

from martlet.models.resolve import resolve
from martlet.text.inner import load_inner
from martlet.text.plain import PlainTokenizer
from martlet.text.plain_folder import read_plain
from support.shared import SHARED, needs_shared

TEXTS = (
    "hi",
    "<s>hi",
    " It 's  9 o'clock ,\n\nthe 世界 é<|im_end|> \U0001f600",
    "",
    "e\u0301 don't 123",
)
CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", "Qwen2Tokenizer", "Qwen2TokenizerFast")


@pytest.fixture
def folder(byte_level_folder, tmp_path) -> Path:
    copy = tmp_path / "folder"
    shutil.copytree(byte_level_folder, copy)
    _name_class(copy, "qwen3", "TokenizersBackend")
    return copy


@pytest.mark.parametrize("tokenizer_class", CLASSES)
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
@pytest.mark.parametrize(
    ("family", "model_type", "tokenizer_class"),
    [
        ("llama3", "llama", "PreTrainedTokenizerFast"),
        ("qwen2", "qwen2", "Qwen2Tokenizer"),
        ("qwen2", "qwen3", "TokenizersBackend"),
    ],
)
def test_real_tokenizers_are_those_of_auto_tokenizer(
    llama3_published_folder, tmp_path, family, model_type, tokenizer_class
):
    source = llama3_published_folder if family == "llama3" else SHARED / "tokenizers/qwen2"
    for path in source.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    _name_class(tmp_path, model_type, tokenizer_class)
    assert read_plain(tmp_path) is not None
    _check_against_auto(tmp_path)


def test_a_usual_folder_needs_no_transformers(folder):
    assert read_plain(folder) is not None
    _check_against_auto(folder)


UNUSUAL = {
    "a setting": {"split_special_tokens": True},
    "an unknown setting": {"do_lower_case": True},
    "code": {"auto_map": {"AutoTokenizer": ["a.B", None]}},
    "a token that is not there": {"pad_token": "<|padding|>"},
    "templates by name": {"chat_template": [{"name": "default", "template": ""}]},
    "another token of the number": {
        "added_tokens_decoder": {"261": {"content": "<|endoftext|>", "lstrip": True}}
    },
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_is_unusual_is_left_to_transformers(folder, changes):
    _write(folder / "tokenizer_config.json", changes)
    assert read_plain(folder) is None


@pytest.mark.parametrize(
    "name", ["special_tokens_map.json", "added_tokens.json", "additional_chat_templates"]
)
def test_other_files_are_left_to_transformers(folder, name):
    (folder / name).write_text("{}")
    assert read_plain(folder) is None


def test_a_tokenizer_that_cuts_its_texts_is_left_to_transformers(folder):
    path = str(folder / "tokenizer.json")
    backend = BackendTokenizer.from_file(path)
    backend.enable_truncation(3)
    backend.save(path)
    assert read_plain(folder) is None


def test_the_embedded_model_starts_without_transformers():
    code = (
        "import sys; from pathlib import Path; from martlet.text.tokenizer import Tokenizer; "
        f"tokenizer = Tokenizer.load(Path({str(resolve('demo'))!r})); "
        "tokenizer.render([{'role': 'user', 'content': 'hi'}]); "
        "sys.exit('transformers' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def _name_class(folder: Path, model_type: str, tokenizer_class: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    _write(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class})


def _write(path: Path, changes: dict[str, object]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _check_against_auto(folder: Path) -> None:
    expected = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inner = load_inner(folder, trust_remote_code=False)
    assert isinstance(inner, PlainTokenizer) or type(inner) is type(expected)
    assert inner.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert inner.special_tokens_map == expected.special_tokens_map
    assert inner.added_tokens_decoder == expected.added_tokens_decoder
    assert inner.get_vocab() == expected.get_vocab()
    assert inner.chat_template == expected.chat_template
    assert (inner.bos_token_id, inner.eos_token_id) == (
        expected.bos_token_id,
        expected.eos_token_id,
    )
    for text in TEXTS:
        token_ids = expected.encode(text)
        assert inner.encode(text) == token_ids
        assert inner.decode(token_ids) == expected.decode(token_ids)
