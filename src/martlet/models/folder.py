"""A model's folder, checked before anything is loaded from it.

Opening reads JSON and the headers of the weight files only: it takes milliseconds and no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from martlet.errors import ModelError, NotFoundError
from martlet.models.fingerprint import fingerprint
from martlet.models.shape import ModelShape, read_shape
from martlet.models.shard import Shard, TensorEntry, read_shard

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a folder says about its model, with weight files that are all there and whole."""

    path: Path
    config: Mapping[str, object]
    """config.json."""
    generation_config: Mapping[str, object]
    """generation_config.json; empty if the folder has none."""
    shards: tuple[Shard, ...]

    @property
    def architectures(self) -> tuple[str, ...]:
        """The model classes that the config names; mostly one."""
        named = self.config.get("architectures")
        return tuple(str(name) for name in named) if isinstance(named, list) else ()

    @cached_property
    def shape(self) -> ModelShape:
        """Layers, heads and context, as far as the config tells."""
        return read_shape(self.config)

    @cached_property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Every tensor of every shard, by name."""
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}

    @property
    def num_parameters(self) -> int:
        """Values in the files. A quantised model packs several into one, so it counts fewer."""
        return sum(tensor.num_values for tensor in self.tensors.values())

    @property
    def weights_bytes(self) -> int:
        """Size of the tensors in the files, without headers."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    @property
    def num_embeddings(self) -> int | None:
        """Rows of the token embedding; None if no tensor has one of its usual names."""
        for ending in _EMBEDDINGS:
            for name, tensor in self.tensors.items():
                if name.endswith(ending) and tensor.shape:
                    return tensor.shape[0]
        return None

    @property
    def quantization_method(self) -> str | None:
        """How the checkpoint is quantised (`gptq`, `awq`, `bitsandbytes`, …); None if it is not."""
        settings = self.config.get("quantization_config")
        if not isinstance(settings, Mapping):
            return None
        return str(settings.get("quant_method", "of an unnamed method"))

    @cached_property
    def model_hash(self) -> str:
        """Identity of config and weights; see `martlet.models.fingerprint`."""
        return fingerprint(self.config, self.shards)


def open_folder(path: str | Path) -> ModelFolder:
    """Opens a model's folder and checks that all that is needed to load it is there.

    Raises:
        NotFoundError: If there is no such folder.
        ModelError: If the folder holds no model that can be loaded: no or broken config.json, no
            safetensors, a missing, cut or foreign weight file. The message says what to do.
    """
    folder = Path(path).expanduser()
    _check_is_model(folder)
    config = _read_json(folder / "config.json")
    generation_path = folder / "generation_config.json"
    return ModelFolder(
        path=folder,
        config=config,
        generation_config=_read_json(generation_path) if generation_path.exists() else {},
        shards=_open_shards(folder),
    )


def _check_is_model(folder: Path) -> None:
    if folder.suffix == ".gguf":
        raise ModelError(_gguf_reason(folder))
    if folder.is_file():
        raise NotFoundError(f"{folder} is a file; name the folder that holds config.json")
    if not folder.is_dir():
        raise NotFoundError(f"no such model folder: {folder}")
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelError(_adapter_reason(folder))
    if any(folder.glob("*.gguf")):
        raise ModelError(_gguf_reason(folder))
    raise ModelError(f"{folder} has no config.json: it is not a Hugging Face model folder")


def _adapter_reason(folder: Path) -> str:
    base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    named = f"the model {base}" if base else "the model that it was trained on"
    return f"{folder} is a PEFT adapter, not a model; load {named} with this folder as its adapter"


def _gguf_reason(path: Path) -> str:
    return (
        f"{path}: GGUF is not read; give the safetensors model that it was made from, "
        "or serve it with llama.cpp and give that server's URL"
    )


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _open_shards(folder: Path) -> tuple[Shard, ...]:
    # The same order of preference as transformers, so that what is checked is what is loaded.
    if (folder / _WEIGHTS).is_file():
        return (read_shard(folder / _WEIGHTS),)
    if (folder / _INDEX).is_file():
        return _open_indexed_shards(folder)
    raise ModelError(_no_weights_reason(folder))


def _open_indexed_shards(folder: Path) -> tuple[Shard, ...]:
    index_path = folder / _INDEX
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index_path} names no weight files; download it again")
    names = sorted({str(name) for name in weight_map.values()})
    if missing := [name for name in names if not _is_file_inside(folder, name)]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: "
            f"{_some(missing)}; download the model again"
        )
    shards = tuple(read_shard(folder / name) for name in names)
    present = {(shard.path.name, tensor.name) for shard in shards for tensor in shard.tensors}
    if absent := [name for name, file in weight_map.items() if (file, name) not in present]:
        raise ModelError(
            f"no weight file has what {index_path} promises, {len(absent)} in all: "
            f"{_some(absent)}; download the model again"
        )
    return shards


def _is_file_inside(folder: Path, name: str) -> bool:
    return Path(name).name == name and (folder / name).is_file()


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, …"


def _no_weights_reason(folder: Path) -> str:
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        return (
            f"{folder} has {_some(others)} but neither {_WEIGHTS} nor {_INDEX}; download it again"
        )
    for pattern in _PICKLES:
        for path in folder.glob(pattern):
            return (
                f"{folder} has its weights in {path.name} only: reading a pickle can run any code; "
                "convert it where you trust it, with transformers: "
                f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained('converted')"
            )
    return f"{folder} has no weights: {_WEIGHTS} is missing"
