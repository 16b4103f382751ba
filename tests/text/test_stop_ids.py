"""Stop ids come from every file that names one, and each is told apart."""

import json

import pytest

from martlet.errors import ModelError
from martlet.text.stop_ids import gather_stop_ids


def test_each_source_is_named_and_the_ids_ascend(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    sources = gather_stop_ids(tmp_path, tokenizer_eos_id=7, end_of_turn_id=3)
    assert list(sources.items()) == [
        (3, ("chat template",)),
        (7, ("generation_config.json", "config.json", "tokenizer")),
        (9, ("generation_config.json",)),
    ]


def test_absent_files_and_null_ids_name_nothing(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": None}))
    assert gather_stop_ids(tmp_path, tokenizer_eos_id=None, end_of_turn_id=None) == {}


@pytest.mark.parametrize("value", ["2", [2, "3"], -1, True, {"id": 2}])
def test_what_is_no_id_is_refused(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelError, match="eos_token_id in"):
        gather_stop_ids(tmp_path, tokenizer_eos_id=None, end_of_turn_id=None)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        gather_stop_ids(tmp_path, tokenizer_eos_id=None, end_of_turn_id=None)
