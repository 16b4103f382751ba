"""What lies beside a model's weights and must go along wherever these go."""

import shutil
from pathlib import Path

from martlet.models.folder import ModelFolder

_OWN = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.gguf",
    "config.json",
    "martlet.json",
)
"""Weights and what describes them."""


def copy_companions(folder: ModelFolder, out: Path) -> None:
    """Copies tokenizer, chat template, generation config and the like, where `out` has none yet."""
    out.mkdir(parents=True, exist_ok=True)
    for path in folder.path.iterdir():
        is_own = any(path.match(pattern) for pattern in _OWN)
        if path.is_file() and not is_own and not (out / path.name).exists():
            shutil.copy2(path, out / path.name)
