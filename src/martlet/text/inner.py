"""The tokenizer of transformers that a folder holds, as `AutoTokenizer` would load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Two names of the class that takes everything from tokenizer.json."""
_TRUSTED_TYPES = ("llama", "qwen3")
"""Model types with which `AutoTokenizer` believes a folder that names that class. With others, such
as qwen2, it takes the class of the type instead."""


def load_inner(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Loads the tokenizer in a folder; nothing is downloaded.

    Raises:
        Exception: Whatever transformers raises if it cannot; each kind has its own ways to fail.
    """
    if _is_plain(folder):
        # AutoTokenizer would choose this class as well, but its module first reads the names in all
        # model files of transformers.
        from transformers import PreTrainedTokenizerFast

        plain: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True
        )
        return plain
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )


def _is_plain(folder: Path) -> bool:
    if not (folder / "tokenizer.json").is_file():
        return False
    config, own_config = _read(folder / "config.json"), _read(folder / "tokenizer_config.json")
    has_code = "auto_map" in config or "auto_map" in own_config
    return (
        not has_code
        and own_config.get("tokenizer_class") in _PLAIN_CLASSES
        and config.get("model_type") in _TRUSTED_TYPES
    )


def _read(path: Path) -> dict[str, Any]:
    """Empty if the file cannot be read: what is wrong with it, transformers says."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
