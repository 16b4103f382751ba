"""Loading, encoding with one BOS, and what a folder's tokenizer says about itself."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from martlet.errors import MissingExtraError, ModelError, NotFoundError
from martlet.text.tokenizer import Tokenizer
from support.shared import SHARED, needs_shared


def test_raw_text_gets_the_bos_of_the_tokenizer_once(byte_fallback):
    bos_id = byte_fallback.bos_id
    plain = byte_fallback.encode("hi", add_special_tokens=False)
    assert bos_id not in plain
    assert byte_fallback.encode("hi", add_special_tokens=True) == (bos_id, *plain)
    for text in ("<s>hi", "<s> hi", "<s><s>hi"):
        for add_special_tokens in (True, False):
            token_ids = byte_fallback.encode(text, add_special_tokens=add_special_tokens)
            assert token_ids.count(bos_id) == 1
            assert token_ids[0] == bos_id
    assert byte_fallback.encode("", add_special_tokens=True) == (bos_id,)
    assert byte_fallback.encode("", add_special_tokens=False) == ()


def test_a_tokenizer_without_bos_adds_nothing(byte_level):
    assert byte_level.bos_id is None
    assert byte_level.encode("hi", add_special_tokens=True) == byte_level.encode(
        "hi", add_special_tokens=False
    )


@needs_shared
def test_llama3_never_has_two_bos(llama3):
    text, token_ids = llama3.render([{"role": "user", "content": "Hi"}])
    assert text.startswith("<|begin_of_text|>")
    assert token_ids.count(llama3.bos_id) == 1
    # The rendered text sent as raw text is the mistake that doubles the BOS elsewhere.
    assert llama3.encode(text, add_special_tokens=True) == token_ids
    assert llama3.encode("Hi", add_special_tokens=True) == (llama3.bos_id, 13347)
    assert llama3.stop_id_sources == {128001: ("tokenizer",), 128009: ("chat template",)}


@needs_shared
def test_spaces_before_punctuation_stay(llama3):
    text = "x = [ 1 , 2 ] ; don 't !"
    assert llama3.decode(llama3.encode(text, add_special_tokens=False)) == text


@needs_shared
def test_an_end_token_is_never_added_to_a_prompt(load_pair):
    yuan = load_pair("yuan2")
    assert yuan.inner.encode("你好")[-1] == yuan.inner.eos_token_id
    token_ids = yuan.tokenizer.encode("你好", add_special_tokens=True)
    assert token_ids[0] == yuan.tokenizer.bos_id
    assert yuan.inner.eos_token_id not in token_ids


@needs_shared
def test_yuan_speaks_through_a_template_of_its_own(tmp_path):
    folder = tmp_path / "yuan"
    folder.mkdir()
    shutil.copy(SHARED / "tokenizers/yuan2/tokenizer.model", folder)
    config = json.loads((SHARED / "tokenizers/yuan2/tokenizer_config.json").read_text())
    config["additional_special_tokens"] = ["<sep>", "<n>", "<eod>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 77185}))
    template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<eod>"
        "{% elif loop.last %}<sep>{% else %}<n>{% endif %}{% endfor %}"
    )
    tokenizer = Tokenizer.load(folder, chat_template=template)
    text, token_ids = tokenizer.render([{"role": "user", "content": "北京在哪？"}])
    assert text == "北京在哪？<sep>"
    assert tokenizer.decode(token_ids[-1:], skip_special_tokens=False) == "<sep>"
    assert tokenizer.stop_id_sources[77185] == ("config.json", "chat template")


@needs_shared
def test_qwen2_stops_at_each_of_its_end_tokens(qwen2):
    assert qwen2.stop_ids == (151643, 151645)
    assert qwen2.stop_id_sources[151645] == (
        "generation_config.json",
        "config.json",
        "tokenizer",
        "chat template",
    )


def test_special_tokens_are_told_from_text(byte_level):
    start, letter, end = byte_level.encode("<|im_start|>x<|im_end|>", add_special_tokens=False)
    assert byte_level.decode([start, letter, end]) == "x"
    assert byte_level.decode([start, letter], skip_special_tokens=False) == "<|im_start|>x"


def test_ids_beyond_the_embedding_are_refused(byte_level):
    byte_level.check_against_embedding(byte_level.num_tokens)
    byte_level.check_against_embedding(byte_level.num_tokens + 64)
    highest = byte_level.num_tokens - 1
    with pytest.raises(ModelError) as caught:
        byte_level.check_against_embedding(highest)
    message = str(caught.value)
    assert f"up to {highest}" in message
    assert f"{highest} rows" in message
    assert f"'<|思考|>' ({highest})" in message


def test_the_hash_follows_vocabulary_and_special_tokens_only(
    byte_level_folder, byte_level, tmp_path
):
    same = Tokenizer.load(byte_level_folder, chat_template="other")
    assert same.tokenizer_hash == byte_level.tokenizer_hash
    assert len(same.tokenizer_hash) == 16
    changed = tmp_path / "changed"
    shutil.copytree(byte_level_folder, changed)
    config = json.loads((changed / "tokenizer_config.json").read_text())
    config["eos_token"] = "<|im_end|>"
    (changed / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(changed).tokenizer_hash != byte_level.tokenizer_hash


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        Tokenizer.load(tmp_path / "nowhere")


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_configuration_without_vocabulary_is_not_an_empty_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"})
    )
    with pytest.raises(ModelError, match="no vocabulary"):
        Tokenizer.load(tmp_path)


def test_a_broken_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load a tokenizer"):
        Tokenizer.load(tmp_path)


def test_code_in_the_folder_does_not_run_unasked(tmp_path):
    (tmp_path / "tokenization_own.py").write_text("raise SystemExit('ran')\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "OwnTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
            }
        )
    )
    with pytest.raises(ModelError, match="trust_remote_code"):
        Tokenizer.load(tmp_path)


def test_a_sentencepiece_file_names_the_extra_it_needs(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"not read")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"martlet\[sentencepiece\]"):
        Tokenizer.load(tmp_path)


def test_importing_the_text_layer_is_cheap():
    code = (
        "import sys, martlet.text.stream, martlet.text.context; "
        "sys.exit(bool({'torch', 'transformers', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
