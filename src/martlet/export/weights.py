"""Rewriting a checkpoint tensor by tensor, one shard in memory at a time.

The new folder is made under a temporary name and gets its own when everything in it is written.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from martlet.errors import ParameterError, ResourceError
from martlet.models.folder import ModelFolder

_MIB = 1 << 20
_INDEX = "model.safetensors.index.json"

Rewrite = Callable[[str, Tensor], Mapping[str, Tensor]]
"""From a tensor's name and value to the tensors that take its place."""


def check_out(out: Path, *, needed_bytes: int) -> None:
    """Refuses an output folder before anything is computed.

    Raises:
        ParameterError: If it holds something, or its parent is missing.
        ResourceError: If the disk has too little room.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ParameterError(f"{out} exists and is not empty; name a new folder", param="out")
    rejected = rejected_name(out)
    if rejected.exists():
        raise ParameterError(
            f"{rejected} is there, from a try that failed its certificate; remove it, or name "
            "another folder",
            param="out",
        )
    if not out.absolute().parent.is_dir():
        raise ParameterError(f"{out.absolute().parent} is no folder; make it first", param="out")
    free_bytes = shutil.disk_usage(out.absolute().parent).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"{out} will take {needed_bytes / _MIB:,.0f} MiB, and the disk has "
            f"{free_bytes / _MIB:,.0f} MiB left; free some space, or name a folder on another disk"
        )


def rejected_name(out: Path) -> Path:
    """What an output folder is called if it fails its certificate."""
    return out.absolute().with_name(f"{out.name}.rejected")


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it at the end, and vanishes if an error comes first."""
    draft = out.absolute().with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def rewrite(
    source: ModelFolder, draft: Path, change: Rewrite, report: Callable[[int, int], None]
) -> None:
    """Writes a checkpoint's tensors anew, shard by shard.

    Args:
        source: Where the tensors come from.
        draft: Where they go, under the same file names.
        change: What becomes of each.
        report: Called with the tensors that are done and all of them.
    """
    weight_map: dict[str, str] = {}
    num_done, size_bytes = 0, 0
    for shard in source.shards:
        tensors: dict[str, Tensor] = {}
        with safe_open(shard.path, framework="pt") as file:
            for entry in shard.tensors:
                for name, tensor in change(entry.name, file.get_tensor(entry.name)).items():
                    tensors[name] = tensor.contiguous()
                num_done += 1
                report(num_done, len(source.tensors))
        save_file(tensors, draft / shard.path.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.path.name)
        size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if len(source.shards) > 1 or source.shards[0].path.name != "model.safetensors":
        index = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
        write_json(draft / _INDEX, index)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
