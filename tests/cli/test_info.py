"""`martlet info` on a model folder."""

import json
from pathlib import Path

from cli.conftest import Call
from martlet.models.folder import ModelFolder


def test_what_a_folder_holds(call: Call, tiny_llama: ModelFolder) -> None:
    called = call("info", tiny_llama.path)
    assert called.exit_code == 0, called.stderr
    for piece in ("LlamaForCausalLM", "context_tokens  512", "chat_template   yes", "memory"):
        assert piece in called.stdout


def test_the_same_as_json(call: Call, tiny_llama: ModelFolder) -> None:
    facts = json.loads(call("info", tiny_llama.path, "--json", "--dtype", "bf16").stdout)
    assert facts["parameters"] == tiny_llama.num_parameters
    assert facts["model_hash"] == tiny_llama.model_hash
    assert facts["dtype"] == "bfloat16"
    assert facts["quantization"] is None


def test_a_folder_without_a_model(call: Call, tmp_path: Path) -> None:
    called = call("info", tmp_path)
    assert called.exit_code == 4
    assert "has no config.json" in called.stderr
