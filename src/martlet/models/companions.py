"""What lies beside a model's weights and must go along wherever these go."""

import shutil
from pathlib import Path

_COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
_OWN = {
    "config.json",
    "model.safetensors.index.json",
    "certificate.json",
    "martlet.json",
    "adapter_config.json",
}
"""What describes these very weights."""


def copy_companions(folder: Path, out: Path) -> None:
    """Copies tokenizer, chat template, generation config and the like.

    Args:
        folder: A model's.
        out: Where they go; made if missing. What it has already stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    for pattern in _COMPANIONS:
        for path in folder.glob(pattern):
            if path.name not in _OWN and not (out / path.name).exists():
                shutil.copyfile(path, out / path.name)
