"""Packed weights kept on disk, so that the next start reads them instead of packing anew.

What a weight becomes depends on the model, on how its weights are held, on the code that lays them
out, and on what this machine multiplies with. All of that is in the name of the file: anything else
is looked for under another name. Beside the weights lie the logits that they gave on the guard's
tokens, and whoever reads them compares.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from martlet.errors import ModelError
from martlet.models.folder import ModelFolder
from martlet.models.linear.compact import CompactLinear, CompactWeight, multiplies_compact
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.panels import Panels
from martlet.models.machine_code import support
from martlet.models.shard import AGAIN, read_shard
from martlet.models.weights import Weights

logger = logging.getLogger(__name__)

_DTYPES = {
    "U8": torch.uint8,
    "I16": torch.int16,
    "I64": torch.int64,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}
_LOGITS, _BIAS, _OUTPUTS = "logits", "bias", "out_features"
_LAYERS = "layers"
"""What the file's metadata calls the numbers of all layers, in JSON."""

PackedLayer = IntegerLinear | CompactLinear
Numbers = Mapping[str, int | None]
"""What a layer has besides tensors, by the names of its fields."""


class _Kept:
    """A file of packed weights, open for reading.

    Args:
        path: The file.

    Raises:
        ModelError: If it cannot be read, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            shard = read_shard(path)
            metadata = json.loads(shard.header)["__metadata__"]
            self.layers: Mapping[str, Numbers] = json.loads(metadata[_LAYERS])
        except (ModelError, OSError, KeyError, ValueError) as error:
            why = str(error).removesuffix(f"; {AGAIN}")  # It was not downloaded.
            raise ModelError(
                f"{path} holds no packed weights that can be read ({why}); remove the file, "
                "and it is made anew"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in shard.tensors}

    def read(self, name: str) -> Tensor | None:
        """A tensor, in pages of this process that may be huge; None if the file has none such."""
        entry = self._tensors.get(name)
        if entry is None:
            return None
        tensor = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
        with self._path.open("rb") as file:
            file.seek(entry.offset_bytes)
            num_bytes = file.readinto(tensor.view(-1).view(torch.uint8).numpy().data)
        if num_bytes != entry.size_bytes:
            raise ModelError(f"{self._path} became shorter while it was read; start again")
        return tensor


class WeightsCache:
    """The file with the packed weights of one model: read if it is there, and otherwise written.

    Args:
        path: The file.

    Raises:
        ModelError: If there is such a file, and it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = _Kept(path) if path.exists() else None
        self._made: dict[str, PackedLayer] = {}
        self.logits = None if self._kept is None else self._kept.read(_LOGITS)
        """What the model computed of the guard's tokens; None if nothing is kept yet."""

    @classmethod
    def of(
        cls, directory: Path, folder: ModelFolder, *, dtype: torch.dtype, weights: Weights
    ) -> Self:
        """The file of a model in a folder of such files."""
        # The hash of a large model is of a sample: a file that was written to counts as another.
        written = [shard.path.stat().st_mtime_ns for shard in folder.shards]
        how = (str(dtype), weights, torch.__version__, *_layouts())
        whose = (folder.model_hash, written, how)
        key = hashlib.sha256(json.dumps(whose).encode()).hexdigest()[:16]
        return cls(directory / f"{folder.path.resolve().name}-{weights}-{key}.safetensors")

    def restored(self, name: str) -> PackedLayer | None:
        """A layer by its name in the model; None if it is not kept."""
        kept = self._kept
        if kept is None or name not in kept.layers:
            return None
        numbers = kept.layers[name]
        bias = kept.read(f"{name}/{_BIAS}")

        def values(names: Iterator[str]) -> dict[str, Any]:
            return {
                field: numbers[field] if field in numbers else kept.read(f"{name}/{field}")
                for field in names
            }

        out_features = numbers.get(_OUTPUTS)
        if out_features is None:
            return CompactLinear(CompactWeight(**values(_names(CompactWeight))), bias)
        panels = Panels(**values(_names(Panels)))
        return IntegerLinear(panels, out_features=out_features, bias=bias)

    def keep(self, name: str, layer: nn.Module) -> None:
        """Notes what a layer was packed into, if it is of a kind that can be read again."""
        if isinstance(layer, PackedLayer):
            self._made[name] = layer

    def write(self, logits: Tensor) -> None:
        """Writes what was noted; the file is there as a whole or not at all.

        The model is ready by now: if the disk has no room, that is a warning and no error.

        Args:
            logits: What it computes of the guard's tokens.
        """
        made, self._made = self._made, {}
        if not made:
            logger.warning(
                "nothing is kept in %s: this machine packs the weights of this model in no form "
                "that can be read again",
                self.path.parent,
            )
            return
        tensors, layers = {_LOGITS: logits}, {}
        for name, layer in made.items():
            values = dict(_values(layer))
            own = {field: value for field, value in values.items() if isinstance(value, Tensor)}
            tensors |= {f"{name}/{field}": tensor for field, tensor in own.items()}
            layers[name] = {field: values[field] for field in values.keys() - own.keys()}
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            save_file(tensors, draft, metadata={_LAYERS: json.dumps(layers)})
            draft.replace(self.path)
        except (OSError, SafetensorError) as error:
            logger.warning("the packed weights are not kept, the next start packs anew: %s", error)
        finally:
            draft.unlink(missing_ok=True)


def _values(layer: PackedLayer) -> Iterator[tuple[str, Tensor | int | None]]:
    weight: Panels | CompactWeight
    if isinstance(layer, IntegerLinear):
        weight = layer.panels
        yield _OUTPUTS, layer.out_features
    else:
        weight = layer.compact_weight
    for name in _names(type(weight)):
        yield name, getattr(weight, name)
    if layer.bias is not None:
        yield _BIAS, layer.bias.clone()  # It may be a view of a whole file.


def _names(record: type[Panels] | type[CompactWeight]) -> Iterator[str]:
    return (field.name for field in fields(record))


@cache
def _layouts() -> tuple[object, ...]:
    """What decides, besides the model, how its weights are laid out."""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        sources.update(path.read_bytes())
    return sources.hexdigest(), support.can_compile(), multiplies_compact()
