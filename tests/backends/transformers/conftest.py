"""The backend over a model that the native engine refuses."""

from pathlib import Path

import pytest

from backends.transformers.asking import load_plain
from martlet.backends.transformers import TransformersBackend
from support.tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder("falcon", tmp_path_factory.mktemp("falcon"))


@pytest.fixture
def backend(folder: Path) -> TransformersBackend:
    return load_plain(folder)
