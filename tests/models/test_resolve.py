"""Names of models: what is a folder, what goes to which hub, and how each failure reads.

The hubs are played by functions of the tests; no network is used.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from martlet.demo import model_path
from martlet.errors import MartletError, MissingExtraError, NotFoundError, ResourceError
from martlet.models.resolve import resolve


class _Hub:
    """Remembers what it was asked for and answers with a folder or an error."""

    def __init__(self, answer: Path | Exception) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []
        self._answer = answer

    def __call__(self, repository: str, **options: object) -> str:
        self.calls.append((repository, options))
        if isinstance(self._answer, Exception):
            raise self._answer
        return str(self._answer)


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | Exception], _Hub]:
    def answer_with(answer: Path | Exception) -> _Hub:
        hub = _Hub(answer)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
        return hub

    return answer_with


@pytest.fixture
def modelscope(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | Exception], _Hub]:
    def answer_with(answer: Path | Exception) -> _Hub:
        hub = _Hub(answer)
        module = ModuleType("modelscope")
        module.__dict__["snapshot_download"] = hub
        monkeypatch.setitem(sys.modules, "modelscope", module)
        return hub

    return answer_with


@pytest.mark.parametrize(
    "name", ["./qwen/base", "../qwen", "~/qwen", "/qwen/base", "qwen", "a/b/c"]
)
def test_a_path_is_never_sent_to_a_hub(
    name: str, hugging_face: Callable[[Path | Exception], _Hub], tmp_path: Path
) -> None:
    hub = hugging_face(tmp_path)
    with pytest.raises(NotFoundError, match="no such model folder") as refusal:
        resolve(name)
    assert refusal.value.exit_code == 3
    assert not hub.calls


def test_demo_is_the_model_that_comes_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert resolve("demo") == model_path()
    assert resolve("./demo") == Path("demo")


def test_what_exists_is_a_folder(
    hugging_face: Callable[[Path | Exception], _Hub],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = hugging_face(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("org/name") == Path("org/name")
    assert resolve("~/org/name") == tmp_path / "org" / "name"
    assert not hub.calls


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [("org/name", "org/name", None), ("org/na.me-7B@v1.0", "org/na.me-7B", "v1.0")],
)
def test_an_id_is_downloaded_without_pickles(
    name: str,
    repository: str,
    revision: str | None,
    hugging_face: Callable[[Path | Exception], _Hub],
    tmp_path: Path,
) -> None:
    hub = hugging_face(tmp_path)
    assert resolve(name) == tmp_path
    asked, options = hub.calls[0]
    assert (asked, options["revision"]) == (repository, revision)
    assert not {"*.bin", "*.pt", "*.py"} & set(options["allow_patterns"])


@pytest.mark.parametrize(
    ("file", "is_wanted"),
    [
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("chat_template.jinja", True),
        ("tokenizer.model", True),
        ("merges.txt", True),
        ("pytorch_model.bin", False),
        ("consolidated.safetensors", False),
        ("original/model.safetensors", False),
        ("onnx/config.json", False),
        ("modeling_yuan.py", False),
        ("model.gguf", False),
    ],
)
def test_only_what_is_read_is_downloaded(
    file: str,
    is_wanted: bool,
    hugging_face: Callable[[Path | Exception], _Hub],
    tmp_path: Path,
) -> None:
    hub = hugging_face(tmp_path)
    resolve("org/name")
    _, options = hub.calls[0]
    patterns = {name: options[f"{name}_patterns"] for name in ("allow", "ignore")}
    kept = filter_repo_objects(
        [file], allow_patterns=patterns["allow"], ignore_patterns=patterns["ignore"]
    )
    assert list(kept) == ([file] if is_wanted else [])


def test_code_is_downloaded_where_it_is_asked_for(
    hugging_face: Callable[[Path | Exception], _Hub],
    modelscope: Callable[[Path | Exception], _Hub],
    tmp_path: Path,
) -> None:
    for hub, name in ((hugging_face(tmp_path), "org/name"), (modelscope(tmp_path), "ms:org/name")):
        resolve(name)
        resolve(name, with_code=True)
        (_, without), (_, with_code) = hub.calls
        assert with_code == {**without, "allow_patterns": [*without["allow_patterns"], "*.py"]}


def _http_error(kind: type[RepositoryNotFoundError | RevisionNotFoundError]) -> Exception:
    # Only the library's HTTP client can build one in full; the message does not depend on it.
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (_http_error(GatedRepoError), NotFoundError, ["is gated", "accept", "hf auth login"]),
        (_http_error(RepositoryNotFoundError), NotFoundError, ["no model 'org/name'", "private"]),
        (_http_error(RevisionNotFoundError), NotFoundError, ["no revision 'v9'", "tree/main"]),
        (HFValidationError("bad"), NotFoundError, ["neither a folder nor a possible", "org/name"]),
        (
            LocalEntryNotFoundError("no\nnetwork"),
            NotFoundError,
            ["cache", "cannot be reached", "path of a folder"],
        ),
        (OSError(errno.ENOSPC, "No space left"), ResourceError, ["disk is full", "free some"]),
        (OSError(errno.EACCES, "denied"), NotFoundError, ["PermissionError", "denied", "network"]),
        (RuntimeError("proxy\ndetails"), NotFoundError, ["RuntimeError: proxy)", "path of a"]),
    ],
)
def test_a_failed_download_is_one_clear_line(
    error: Exception,
    kind: type[MartletError],
    words: list[str],
    hugging_face: Callable[[Path | Exception], _Hub],
) -> None:
    hugging_face(error)
    with pytest.raises(kind) as refusal:
        resolve("org/name@v9")
    assert refusal.value.exit_code == (6 if kind is ResourceError else 3)
    assert "\n" not in str(refusal.value)
    for word in words:
        assert word in str(refusal.value)


def test_an_uncached_model_offline_is_not_found(tmp_path: Path) -> None:
    # In a process of its own: the hub's library reads its environment once.
    code = "from martlet.models.resolve import resolve; resolve('martlet-tests/absent')"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=False
    )
    last_line = process.stderr.splitlines()[-1]
    assert "NotFoundError" in last_line
    assert "is not (all) in the local cache" in last_line


def test_a_modelscope_id_goes_to_modelscope(
    modelscope: Callable[[Path | Exception], _Hub], tmp_path: Path
) -> None:
    hub = modelscope(tmp_path)
    assert resolve("ms:IEITYuan/Yuan2-2B@master") == tmp_path
    asked, options = hub.calls[0]
    assert (asked, options["revision"]) == ("IEITYuan/Yuan2-2B", "master")


def test_a_failed_modelscope_download_is_one_clear_line(
    modelscope: Callable[[Path | Exception], _Hub],
) -> None:
    modelscope(ValueError("not there\nat all"))
    with pytest.raises(NotFoundError) as refusal:
        resolve("ms:org/name")
    assert "ms:org/name could not be downloaded (ValueError: not there)" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_modelscope_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtraError, match=r"martlet\[modelscope\]") as refusal:
        resolve("ms:org/name")
    assert refusal.value.exit_code == 5
