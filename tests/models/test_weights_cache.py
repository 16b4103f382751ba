"""Packed weights read from disk are those that were packed, and nothing else passes for them."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.errors import ModelError, ParameterError
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.linear.compact import multiplies_compact
from martlet.models.linear.packed import can_pack
from martlet.models.load import LoadedModel, load_model
from martlet.models.machine_code.support import can_compile
from martlet.models.weights import Weights
from support.engines import plain_logits
from support.tiny_models import tiny_model_folder

pytestmark = pytest.mark.skipif(
    not can_compile() or not can_pack(), reason="this machine packs nothing that is kept"
)
TOKENS = list(range(20, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("wide")
    return open_folder(tiny_model_folder("qwen2", path, hidden_size=512, intermediate_size=1024))


def load(folder: ModelFolder, weights: Weights, cache: Path | None) -> LoadedModel:
    return load_model(
        folder,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        weights=weights,
        weights_cache=cache,
    )


def logits(model: LoadedModel) -> Tensor:
    return plain_logits(model, TOKENS)


def only_file(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


@pytest.mark.parametrize("weights", ["stored", "int8", "int4"])
def test_the_second_start_packs_nothing_and_computes_the_same(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Weights
) -> None:
    if weights == "stored" and not multiplies_compact():
        pytest.skip("bf16 weights are oneDNN's here, which are not kept")
    expected = logits(load(folder, weights, None))
    assert torch.equal(logits(load(folder, weights, tmp_path)), expected)
    assert only_file(tmp_path).name.startswith(f"{folder.path.name}-{weights}-")

    def forbidden(*_: object) -> None:
        raise AssertionError("a weight was packed")

    for packing in (
        "martlet.models.linear.compact.CompactWeight.of",
        "martlet.models.linear.integer.lay_out",
        "martlet.models.linear.rounded.round_channels",
        "martlet.models.load.own_logits",
    ):
        monkeypatch.setattr(packing, forbidden)
    assert torch.equal(logits(load(folder, weights, tmp_path)), expected)


def test_another_model_and_another_precision_are_kept_apart(
    folder: ModelFolder, tmp_path: Path
) -> None:
    trained = tmp_path / folder.path.name
    torch.manual_seed(1)
    tiny_model_folder("qwen2", trained, hidden_size=512, intermediate_size=1024, rope_theta=5e5)
    cache = tmp_path / "cache"
    cache.mkdir()
    both = folder, open_folder(trained)
    first = [logits(load(each, w, cache)) for each in both for w in ("int8", "int4")]
    again = [logits(load(each, w, cache)) for each in both for w in ("int8", "int4")]
    assert len(list(cache.iterdir())) == 4
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_a_model_whose_file_was_written_to_is_packed_anew(
    folder: ModelFolder, tmp_path: Path
) -> None:
    copy, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(folder.path, copy)
    cache.mkdir()
    load(open_folder(copy), "int8", cache)
    os.utime(copy / "model.safetensors", ns=(0, 0))
    load(open_folder(copy), "int8", cache)
    assert len(list(cache.iterdir())) == 2


def test_weights_that_were_changed_on_disk_are_refused(folder: ModelFolder, tmp_path: Path) -> None:
    load(folder, "int8", tmp_path)
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 4 :: 7] = bytes(len(content[len(content) // 4 :: 7]))
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"compute something else.*remove the file"):
        load(folder, "int8", tmp_path)


def test_a_file_that_was_cut_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    load(folder, "int8", tmp_path)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"cut short.*remove the file, and it is made anew"):
        load(folder, "int8", tmp_path)


@contextmanager
def files_no_longer_than(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_costs_the_file_and_not_the_model(
    folder: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(load(folder, "int8", None))
    with files_no_longer_than(100_000):
        model = load(folder, "int8", tmp_path)
    assert torch.equal(logits(model), expected)
    assert "the next start packs anew" in caplog.text
    assert not list(tmp_path.iterdir())


def test_that_nothing_can_be_kept_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = open_folder(tiny_model_folder("qwen2", tmp_path / "model"))
    cache = tmp_path / "cache"
    cache.mkdir()
    load(folder, "stored", cache)
    assert f"nothing is kept in {cache}" in caplog.text
    assert not list(cache.iterdir())


def test_the_option_makes_the_folder_and_reaches_the_model(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "b"
    options = BackendOptions(weights="int8", weights_cache=cache)
    load_backend("demo", options=options).close()
    assert only_file(cache).stat().st_size > 800_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "transformers"}, "has no effect on the transformers backend"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "has no effect on the openai backend"),
        ({}, "the folder cannot be made"),
    ],
)
def test_where_it_cannot_work_it_is_refused(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    taken = tmp_path / "file"
    taken.touch()
    cache = taken if not options else tmp_path / "cache"
    with pytest.raises(ParameterError, match=message):
        load_backend("demo", options=BackendOptions(weights_cache=cache, **options))  # type: ignore[arg-type]
