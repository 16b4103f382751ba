"""From what the user calls a model to a folder on this machine."""

import errno
from pathlib import Path

from martlet.errors import MartletError, MissingExtraError, NotFoundError, ResourceError

DEMO = "demo"
"""The name of the model that comes with the package."""
MODELSCOPE_PREFIX = "ms:"

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
# Folders hold other formats (onnx/, original/), and `consolidated` repeats the weights: gigabytes
# that nothing here reads. Pickles are not asked for.
_UNWANTED = ["*/*", "consolidated*"]


def resolve(model: str, *, with_code: bool = False, may_download: bool = True) -> Path:
    """Finds a model's folder, downloading the model where that is needed.

    `HF_HUB_OFFLINE=1` makes do with what was downloaded before, and `HF_HOME` says where that is.

    Args:
        model: `demo`; a folder; a Hugging Face id `org/name`, or `org/name@revision`; a ModelScope
            id, `ms:org/name`. What starts with `.`, `/` or `~`, or exists, is a folder and is never
            looked up on a hub; `./demo` is a folder of that name.
        with_code: Whether a download includes the model's own Python files. They are not run here.
        may_download: Whether what is not here yet is fetched.

    Raises:
        NotFoundError: If there is no such folder or model, or it cannot be reached.
        MissingExtraError: If it is a ModelScope id and `modelscope` is not installed.
        ResourceError: If the disk is full.
    """
    if model == DEMO:
        return _demo_folder()
    if model.startswith(MODELSCOPE_PREFIX):
        return _download_from_modelscope(model, with_code=with_code, may_download=may_download)
    path = Path(model).expanduser()
    if path.exists():
        return path
    if not is_hub_id(model):
        raise NotFoundError(
            f"no such model folder: {model!r} (a model of a hub is called org/name or ms:org/name)"
        )
    return _download_from_hugging_face(model, with_code=with_code, may_download=may_download)


def _demo_folder() -> Path:
    from martlet.demo import model_path

    return model_path()


def _wanted(with_code: bool) -> list[str]:
    return [*_WANTED, "*.py"] if with_code else _WANTED


def is_hub_id(model: str) -> bool:
    """Whether it is called as models of Hugging Face are; a folder may be, too."""
    repository, _, _ = model.partition("@")
    organisation, _, name = repository.partition("/")
    return not model.startswith((".", "/", "~")) and bool(organisation and name) and "/" not in name


def _download_from_hugging_face(model: str, *, with_code: bool, may_download: bool) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = model.partition("@")
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=_wanted(with_code),
            ignore_patterns=_UNWANTED,
            local_files_only=not may_download,
        )
    except Exception as error:  # its errors share no base: HTTP, cache, validation, disk
        raise _explain_hugging_face(error, repository, revision) from error
    return Path(folder)


def _explain_hugging_face(error: Exception, repository: str, revision: str) -> MartletError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        reason = f"{repository} is gated: accept its licence at {page}, then run: hf auth login"
    elif isinstance(error, RepositoryNotFoundError):
        reason = f"no model {repository!r} on Hugging Face (if it is private, run: hf auth login)"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"{repository} has no revision {revision!r}; see {page}/tree/main"
    elif isinstance(error, HFValidationError):
        reason = f"{repository!r} is neither a folder nor a possible Hugging Face id (org/name)"
    elif isinstance(error, LocalEntryNotFoundError):
        reason = (
            f"{repository!r} is no folder here, is not (all) in the local cache, and Hugging Face "
            "cannot be reached: go online, or give the path of a folder with the model"
        )
    else:
        return _explain_failed_download(error, repository)
    return NotFoundError(reason)


def _download_from_modelscope(model: str, *, with_code: bool, may_download: bool) -> Path:
    try:
        from modelscope import snapshot_download as download
    except ImportError as error:
        raise MissingExtraError("a ModelScope model", extra="modelscope") from error
    repository, _, revision = model.removeprefix(MODELSCOPE_PREFIX).partition("@")
    try:
        folder = download(
            repository,
            revision=revision or None,
            allow_patterns=_wanted(with_code),
            ignore_patterns=_UNWANTED,
            local_files_only=not may_download,
        )
    except Exception as error:  # as above
        raise _explain_failed_download(error, model) from error
    return Path(folder)


def _explain_failed_download(error: Exception, model: str) -> MartletError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ResourceError(f"the disk is full: {model} could not be downloaded; free some space")
    first_line = str(error).partition("\n")[0]
    return NotFoundError(
        f"{model} could not be downloaded ({type(error).__name__}: {first_line}); "
        "check the name and the network, or give the path of a folder with the model"
    )
