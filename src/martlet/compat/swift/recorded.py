"""What an adapter was trained on, as training wrote it down."""

import json
from collections.abc import Mapping
from pathlib import Path

from martlet.compat.flags import Given
from martlet.compat.model_types import PUBLISHED
from martlet.errors import AdapterError, NotFoundError
from martlet.lora.config import CONFIG_NAME
from martlet.lora.provenance import read_provenance

_ARGUMENTS = "sft_args.json"
"""Where ms-swift 2 keeps its flags: in the checkpoint, or above it."""


def recorded_base(folder: Path) -> Given:
    """The base of an adapter, in the flags that would name it.

    Args:
        folder: The adapter's.

    Raises:
        AdapterError: If a file of the adapter's cannot be read.
        NotFoundError: If none names the base.
    """
    provenance = read_provenance(folder)
    if provenance is not None:
        return _by_path(provenance.base)
    for path in (folder / _ARGUMENTS, folder.parent / _ARGUMENTS):
        if path.is_file():
            return _by_arguments(_read(path), path)
    base = _read(folder / CONFIG_NAME).get("base_model_name_or_path")
    if not base:
        raise NotFoundError(f"{folder} does not name the model that it is for; add --model_type")
    return _by_path(str(base))


def _by_path(base: str) -> Given:
    return {"model_type": None, "model_id_or_path": base}


def _by_arguments(arguments: Mapping[str, object], path: Path) -> Given:
    model_type, model = arguments.get("model_type"), str(arguments.get("model_id_or_path") or "")
    if model_type in PUBLISHED:
        # An id that is recorded there is ModelScope's.
        return {
            "model_type": model_type,
            "model_id_or_path": model if Path(model).is_dir() else None,
        }
    if not model:
        raise NotFoundError(f"{path} does not name a model that is known; add --model_id_or_path")
    return _by_path(model)


def _read(path: Path) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content
