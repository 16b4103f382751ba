"""Fixtures that every folder of tests shares."""

import gc
import os
from threading import Event

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by NumPy, and by the commands of tests

import torch

# Read when a kernel is defined, so before any module that has one is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from martlet.models.folder import ModelFolder, open_folder
from support.tiny_models import tiny_model_folder


def pytest_configure() -> None:
    gc.disable()  # until all tests are imported, which leaves no garbage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test go first: of several processes, none is left alone with one."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


def pytest_collection_finish() -> None:
    """What was imported stays: to look for garbage among it would take most of a second a time."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is never let go of, some libraries report as leaked


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Tiny models run fastest on one thread, and two test runs may share a machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test had compiled for narrow models is used by none that comes after."""
    monkeypatch.setattr("martlet.models.compiled.threads._crowd_came", Event())


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A tiny random Llama as a user's folder."""
    return open_folder(tiny_model_folder("llama", tmp_path_factory.mktemp("tiny") / "llama"))
