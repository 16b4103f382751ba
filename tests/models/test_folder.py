"""A model's folder: what it tells, and one clear line for each way of being unusable."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from martlet.errors import MartletError, ModelError, NotFoundError
from martlet.models.folder import open_folder
from support.shared import SHARED, needs_shared
from support.tiny_models import (
    ARCHITECTURES,
    MAX_CONTEXT_TOKENS,
    REFUSED,
    VOCAB_SIZE,
    tiny_model_folder,
)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *REFUSED])
def test_the_header_tells_what_the_loaded_model_is(architecture: str, tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder(architecture, tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert folder.architectures == (type(model).__name__,)
    assert folder.num_parameters == sum(values.numel() for values in _stored(model))
    assert folder.weights_bytes == sum(values.nbytes for values in _stored(model))
    assert folder.num_embeddings == VOCAB_SIZE == model.get_input_embeddings().num_embeddings
    assert folder.shape.num_layers == model.config.num_hidden_layers
    assert folder.generation_config["eos_token_id"] == model.generation_config.eos_token_id
    assert folder.quantization_method is None


def _stored(model: torch.nn.Module) -> list[torch.Tensor]:
    """Every tensor that a checkpoint holds, tied ones once."""
    distinct = {values.data_ptr(): values for values in model.state_dict().values()}
    return list(distinct.values())


def test_the_context_is_the_config_s(tmp_path: Path) -> None:
    folder = open_folder(tiny_model_folder("gpt2", tmp_path))
    assert folder.shape.max_context_tokens == MAX_CONTEXT_TOKENS


@needs_shared
def test_a_real_model_opens() -> None:
    folder = open_folder(SHARED / "models" / "stories260K")
    assert folder.num_embeddings == 512
    assert folder.shape.max_context_tokens == 512
    assert len(folder.model_hash) == 64


def test_shards_are_found_through_the_index(tmp_path: Path) -> None:
    folder = open_folder(_split_folder(tmp_path))
    assert [shard.path.name for shard in folder.shards] == ["one.safetensors", "two.safetensors"]
    assert set(folder.tensors) == {"a", "b"}
    assert folder.num_parameters == 5
    assert folder.num_embeddings is None
    assert folder.generation_config == {}


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, None),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"bits": 4}}, "of an unnamed method"),
    ],
)
def test_the_quantisation_is_told(
    config: dict[str, object], method: str | None, tmp_path: Path
) -> None:
    (_split_folder(tmp_path) / "config.json").write_text(json.dumps(config))
    assert open_folder(tmp_path).quantization_method == method


def _split_folder(folder: Path) -> Path:
    """A folder with two tensors in two weight files."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": torch.zeros(2)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "two.safetensors")
    _write_index(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    return folder


def _write_index(folder: Path, weight_map: object) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def _absent(folder: Path) -> Path:
    return folder / "absent"


def _a_file(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder / "notes.txt"


def _a_gguf_file(folder: Path) -> Path:
    return folder / "model.Q4_K_M.gguf"


def _empty(folder: Path) -> Path:
    return folder


def _ggufs(folder: Path) -> Path:
    (folder / "model.gguf").write_bytes(b"GGUF")
    return folder


def _adapter(folder: Path) -> Path:
    config = {"base_model_name_or_path": "Qwen/Qwen2-0.5B"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _adapter_without_base(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text("{}")
    return folder


def _broken_config(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": ')
    return folder


def _binary_config(folder: Path) -> Path:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    return folder


def _config_that_is_a_list(folder: Path) -> Path:
    (folder / "config.json").write_text("[]")
    return folder


def _broken_generation_config(folder: Path) -> Path:
    (_split_folder(folder) / "generation_config.json").write_text("{,}")
    return folder


def _no_weights(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def _pickles_only(folder: Path) -> Path:
    (_no_weights(folder) / "pytorch_model.bin").write_bytes(b"PK")
    return folder


def _consolidated_only(folder: Path) -> Path:
    save_file({"a": torch.zeros(2)}, _no_weights(folder) / "consolidated.safetensors")
    return folder


def _cut_weights(folder: Path) -> Path:
    path = tiny_model_folder("llama", folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def _missing_shard(folder: Path) -> Path:
    (_split_folder(folder) / "two.safetensors").unlink()
    return folder


def _shard_outside(folder: Path) -> Path:
    _write_index(_split_folder(folder), {"a": "../one.safetensors"})
    return folder


def _missing_tensor(folder: Path) -> Path:
    _write_index(_split_folder(folder), {"a": "one.safetensors", "c": "two.safetensors"})
    return folder


def _empty_index(folder: Path) -> Path:
    _write_index(_split_folder(folder), {})
    return folder


@pytest.mark.parametrize(
    ("make", "kind", "exit_code", "words"),
    [
        (_absent, NotFoundError, 3, ["no such model folder", "absent"]),
        (_a_file, NotFoundError, 3, ["notes.txt is a file", "config.json"]),
        (_a_gguf_file, ModelError, 4, ["GGUF is not read", "safetensors", "llama.cpp"]),
        (_empty, ModelError, 4, ["no config.json"]),
        (_ggufs, ModelError, 4, ["GGUF is not read", "safetensors", "llama.cpp"]),
        (_adapter, ModelError, 4, ["PEFT adapter", "Qwen/Qwen2-0.5B", "as its adapter"]),
        (_adapter_without_base, ModelError, 4, ["PEFT adapter", "that it was trained on"]),
        (_broken_config, ModelError, 4, ["config.json is not valid JSON"]),
        (_binary_config, ModelError, 4, ["config.json is not valid JSON"]),
        (_config_that_is_a_list, ModelError, 4, ["config.json must hold a JSON object", "list"]),
        (_broken_generation_config, ModelError, 4, ["generation_config.json is not valid JSON"]),
        (_no_weights, ModelError, 4, ["no weights", "model.safetensors is missing"]),
        (_pickles_only, ModelError, 4, ["pytorch_model.bin", "pickle", "save_pretrained"]),
        (_consolidated_only, ModelError, 4, ["consolidated.safetensors but neither"]),
        (_cut_weights, ModelError, 4, ["model.safetensors is cut short", "download it again"]),
        (_missing_shard, ModelError, 4, ["lacks 1 of 2", "two.safetensors", "download"]),
        (_shard_outside, ModelError, 4, ["lacks 1 of 1", "../one.safetensors"]),
        (_missing_tensor, ModelError, 4, ["no weight file has", "1 in all: c", "download"]),
        (_empty_index, ModelError, 4, ["names no weight files"]),
    ],
)
def test_an_unusable_folder_is_refused_in_one_line(
    make: Callable[[Path], Path],
    kind: type[MartletError],
    exit_code: int,
    words: list[str],
    tmp_path: Path,
) -> None:
    with pytest.raises(kind) as refusal:
        open_folder(make(tmp_path))
    message = str(refusal.value)
    assert refusal.value.exit_code == exit_code
    assert "\n" not in message
    for word in words:
        assert word in message
