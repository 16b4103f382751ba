"""Headers of safetensors files: read as safetensors writes them, refused when they are wrong."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from martlet.errors import ModelError
from martlet.models.shard import TensorEntry, read_shard

_TENSORS = {
    "a": torch.zeros(3, 5),
    "b": torch.zeros(0, 4, dtype=torch.bfloat16),
    "c": torch.zeros((), dtype=torch.int64),
}
_WHOLE = save(_TENSORS)


def test_a_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(_TENSORS, path, metadata={"format": "pt"})
    shard = read_shard(path)
    described = {tensor.name: (tensor.dtype, tensor.shape) for tensor in shard.tensors}
    assert described == {"a": ("F32", (3, 5)), "b": ("BF16", (0, 4)), "c": ("I64", ())}
    assert sum(tensor.size_bytes for tensor in shard.tensors) == 3 * 5 * 4 + 8
    assert [tensor.num_values for tensor in shard.tensors if tensor.name == "a"] == [15]
    assert shard.size_bytes == path.stat().st_size


@given(num_bytes=st.integers(0, len(_WHOLE) - 1))
def test_a_cut_file_is_refused_wherever_it_is_cut(
    num_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.safetensors"
    path.write_bytes(_WHOLE[:num_bytes])
    with pytest.raises(ModelError, match="download it again"):
        read_shard(path)


def _file(header: object, num_data_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_data_bytes)


def _entry(begin: int, end: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(_file({"a": _entry(0, 4)}, 2), "cut short: its header", id="cut"),
        pytest.param(_file({"a": _entry(0, 4)}, 9), "longer than its header", id="longer"),
        pytest.param(_file({"a": _entry(4, 8)}, 8), "misplaces the tensor a", id="hole"),
        pytest.param(
            _file({"a": _entry(0, 4), "b": _entry(2, 6)}, 6), "misplaces the tensor b", id="overlap"
        ),
        pytest.param(_file({"a": _entry(0, -4)}, 0), "misplaces the tensor a", id="backwards"),
        pytest.param(_file([], 0), "header cannot be read", id="a list"),
        pytest.param(_file({"a": 1}, 0), "header cannot be read", id="a number for a tensor"),
        pytest.param(_file({"a": {}}, 0), "header cannot be read", id="no offsets"),
        pytest.param(b"\xff" * 64, "is not a safetensors file", id="noise"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "git lfs pull",
            id="a pointer",
        ),
    ],
)
def test_a_wrong_file_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as refusal:
        read_shard(path)
    assert words in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_the_data_lie_where_the_entry_says(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    values = torch.arange(6, dtype=torch.uint8)
    save_file({"x": values[:2].clone(), "y": values[2:].clone()}, path)
    content = path.read_bytes()
    for tensor in read_shard(path).tensors:
        assert isinstance(tensor, TensorEntry)
        end = tensor.offset_bytes + tensor.size_bytes
        expected = {"x": bytes([0, 1]), "y": bytes([2, 3, 4, 5])}[tensor.name]
        assert content[tensor.offset_bytes : end] == expected
