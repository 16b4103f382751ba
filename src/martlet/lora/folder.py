"""A PEFT adapter's folder: its config, and its tensors by the module that they belong to.

Only safetensors are read. Nothing here knows the base model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, cast

import safetensors.torch
from torch import Tensor

from martlet.errors import AdapterError, ModelError, NotFoundError
from martlet.lora.config import CONFIG_NAME, AdapterConfig, read_config
from martlet.models.shard import read_shard

WEIGHTS_NAME = "adapter_model.safetensors"
_PICKLE_NAME = "adapter_model.bin"
_PREFIX = "base_model.model."
_PIECE_BYTES = 1 << 20

Part = Literal[
    "lora_A.weight",
    "lora_B.weight",
    "lora_B.bias",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "base_layer.weight",
    "base_layer.bias",
    "weight",
    "bias",
]
"""What a tensor is to its module. The last two are trained in place of the base's own."""
_KEY = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]"
    r"|lora_magnitude_vector|base_layer\.(?:weight|bias)|weight|bias)"
)


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """A folder with a config that is supported and a weight file that is whole."""

    path: Path
    config: AdapterConfig

    def load(self) -> "AdapterTensors":
        """Reads the tensors, which may still be the file's own pages.

        Raises:
            AdapterError: If the file cannot be read, or a tensor's name is not PEFT's.
        """
        weights = self.path / WEIGHTS_NAME
        try:
            before = weights.stat()
            digest = blake2b((self.path / CONFIG_NAME).read_bytes(), digest_size=8)
            with weights.open("rb") as file:
                # Piece by piece: a running model waits while Python is in one long call.
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
            tensors = safetensors.torch.load_file(weights)
            after = weights.stat()
        except (OSError, safetensors.SafetensorError) as error:
            raise AdapterError(f"{weights} cannot be read: {error}") from error
        if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
            raise AdapterError(f"{weights} was changed while it was read; load it again")
        return AdapterTensors(revision=digest.hexdigest(), by_module=_by_module(self.path, tensors))


@dataclass(frozen=True, kw_only=True)
class AdapterTensors:
    """What an adapter's weight file holds."""

    revision: str
    """16 hexadecimal digits: a hash of config and weights."""
    by_module: Mapping[str, Mapping[Part, Tensor]]
    """By the name of the base's module."""

    @property
    def num_tensors(self) -> int:
        return sum(len(parts) for parts in self.by_module.values())


def open_adapter(path: str | Path) -> AdapterFolder:
    """Opens an adapter's folder; reads the config and the weight file's header only.

    Raises:
        NotFoundError: If there is no such folder.
        AdapterError: If it holds no adapter, one of a kind that is not supported, or weights that
            are missing, cut, or a pickle. The message says what to do.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NotFoundError(f"no such adapter folder: {folder}")
    if not (folder / CONFIG_NAME).is_file():
        what = "a whole model" if (folder / "config.json").is_file() else "no PEFT adapter"
        raise AdapterError(f"{folder} holds {what}: it has no {CONFIG_NAME}")
    config = read_config(folder)
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise AdapterError(no_weights_reason(folder))
    try:
        read_shard(weights)
    except ModelError as error:
        raise AdapterError(str(error)) from error
    return AdapterFolder(path=folder, config=config)


def no_weights_reason(folder: Path) -> str:
    """Why an adapter's folder without safetensors cannot be read, and what to do."""
    if not (folder / _PICKLE_NAME).is_file():
        return f"{folder} has no weights: {WEIGHTS_NAME} is missing"
    return (
        f"{folder} has its weights in {_PICKLE_NAME} only: reading a pickle can run any code; "
        'convert it where you trust it: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{_PICKLE_NAME}', weights_only=True), '{WEIGHTS_NAME}')\""
    )


def _by_module(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[Part, Tensor]]:
    by_module: dict[str, dict[Part, Tensor]] = {}
    foreign = []
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX)
        # Some versions of PEFT wrote the magnitudes of DoRA with this ending.
        name = re.sub(r"(\.lora_magnitude_vector)\.weight$", r"\1", name)
        found = _KEY.fullmatch(name)
        if found is None or not key.startswith(_PREFIX):
            foreign.append(key)
        else:
            part = cast(Part, found["part"])
            by_module.setdefault(found["module"], {})[part] = tensor
    if foreign:
        raise AdapterError(
            f"{path}: {len(foreign)} of {len(tensors)} tensors have names that are not of a LoRA "
            f"adapter of PEFT, the first is {min(foreign)}"
        )
    return by_module
