"""Adapters as ms-swift 2 saves them, written in PEFT's format.

Its own format holds each adapter in a folder named after it, `default` unless told, with that name
in the tensors' keys and without PEFT's prefix; its config has fields that PEFT does not know.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from martlet.compat.swift.checkpoint import NESTED
from martlet.errors import AdapterError, InputError, MissingExtraError, NotFoundError
from martlet.lora.config import CONFIG_NAME
from martlet.lora.folder import WEIGHTS_NAME, no_weights_reason, open_adapter

_PREFIX = "base_model.model."
_OWN_SETTINGS = ("use_qa_lora", "use_merged_linear", "enable_lora", "lorap_emb_lr")
"""Settings of ms-swift's own that change what an adapter computes."""


def to_peft_format(folder: Path, out: Path) -> None:
    """Writes the adapter of a checkpoint in PEFT's format.

    A checkpoint that is in that format already is copied, so that the commands that follow find it.

    Args:
        folder: The checkpoint; it stays as it is.
        out: The new folder.

    Raises:
        NotFoundError: If there is no such folder.
        AdapterError: If it holds no adapter, or one that PEFT cannot express.
        InputError: If `out` exists.
        MissingExtraError: If PEFT is not installed.
    """
    import safetensors.torch

    source = _source(folder)
    if out.exists():
        raise InputError(f"{out} exists, and nothing is overwritten; move it away")
    config = _peft_config(source)
    weights = source / WEIGHTS_NAME
    if not weights.is_file():
        raise AdapterError(no_weights_reason(source))
    tensors = {_peft_key(key): each for key, each in safetensors.torch.load_file(weights).items()}
    out.mkdir(parents=True)
    (out / CONFIG_NAME).write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")
    safetensors.torch.save_file(tensors, out / WEIGHTS_NAME, metadata={"format": "pt"})
    open_adapter(out).load()


def _source(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotFoundError(f"no such checkpoint: {folder}")
    for candidate in (folder / NESTED, folder):
        if (candidate / CONFIG_NAME).is_file():
            return candidate
    raise AdapterError(f"{folder} holds no adapter: neither it nor {NESTED}/ has {CONFIG_NAME}")


def _peft_config(source: Path) -> Mapping[str, Any]:
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise MissingExtraError("writing PEFT's format", extra="train") from error

    given = json.loads((source / CONFIG_NAME).read_text(encoding="utf-8"))
    kind = given.get("swift_type") or given.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{source} is of the kind {kind}, and PEFT's format here is for LORA")
    if own := [name for name in _OWN_SETTINGS if given.get(name)]:
        raise AdapterError(f"{source} was trained with {own[0]}, which PEFT cannot express")
    known = {field.name for field in fields(LoraConfig)}
    kept = {name: value for name, value in given.items() if name in known}
    return {**kept, "peft_type": "LORA"}


def _peft_key(key: str) -> str:
    """A tensor's name as PEFT has it: its prefix in front, the adapter's own name left out."""
    named = key if key.startswith(_PREFIX) else _PREFIX + key
    named = re.sub(rf"(lora_[AB])\.{NESTED}\.", r"\1.", named)
    return re.sub(
        rf"(lora_embedding_[AB]|lora_magnitude_vector)\.{NESTED}(\.weight)?$", r"\1", named
    )
