"""Whether an adapter's tensors fit a base: each must land on a module, none may be lacking."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from martlet.errors import AdapterError
from martlet.lora.base import BaseLeaves
from martlet.lora.config import AdapterConfig
from martlet.lora.folder import AdapterFolder, AdapterTensors, Part
from martlet.lora.weights import features

_NUM_NAMED = 3
"""So many of the tensors that do not fit are named in a message."""


def check_landing(folder: AdapterFolder, tensors: AdapterTensors, base: BaseLeaves) -> int:
    """Checks every tensor of an adapter, and every module that its config names.

    Returns:
        The number of tensors; all of them landed, and none is lacking.

    Raises:
        AdapterError: Otherwise, with the counts and the first names that failed.
    """
    lacking = {
        f"{name}.{part}: the file lacks it"
        for name, leaf in base.leaves.items()
        if shape_of(leaf) is not None and folder.config.targets(name)
        for part in _needed(leaf, folder.config)
        if part not in tensors.by_module.get(name, {})
    }
    misfits = [
        f"{name}.{part}: {reason}"
        for name, parts in tensors.by_module.items()
        for part, tensor in parts.items()
        if (reason := _misfit(name, part, tensor, parts, folder.config, base))
    ]
    failed = [*misfits, *sorted(lacking), *_unmatched(folder.config, tensors.by_module)]
    num_expected = tensors.num_tensors + len(lacking)
    if failed:
        more = f" (and {len(failed) - _NUM_NAMED} more)" if len(failed) > _NUM_NAMED else ""
        raise AdapterError(
            f"{folder.path} does not fit this model, tensors "
            f"{tensors.num_tensors - len(misfits)}/{num_expected}: "
            f"{'; '.join(failed[:_NUM_NAMED])}{more}. It was made for {folder.config.base_model}"
        )
    return num_expected


def shape_of(leaf: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a leaf that LoRA can be put on: linear, or an embedding."""
    if isinstance(leaf, nn.Embedding):
        return leaf.num_embeddings, leaf.embedding_dim
    return features(leaf)


def _needed(leaf: nn.Module, config: AdapterConfig) -> tuple[Part, ...]:
    magnitude: tuple[Part, ...] = ("lora_magnitude_vector",) if config.use_dora else ()
    if isinstance(leaf, nn.Embedding):
        return ("lora_embedding_A", "lora_embedding_B", *magnitude)
    return ("lora_A.weight", "lora_B.weight", *magnitude)


def _misfit(
    name: str,
    part: Part,
    tensor: Tensor,
    parts: Mapping[Part, Tensor],
    config: AdapterConfig,
    base: BaseLeaves,
) -> str | None:
    """Why a tensor cannot be used; None if it can."""
    leaf = base.leaves.get(name)
    if leaf is None:
        return "the model has no such module"
    if not tensor.isfinite().all():
        return "it holds values that are not finite"
    shape = shape_of(leaf)
    if shape is None:
        return _misfit_of_other(leaf, part, tensor)
    if part.startswith("lora") and not set(_needed(leaf, config)) <= set(parts):
        return f"without {', '.join(sorted(set(_needed(leaf, config)) - set(parts)))}"
    if part == "lora_magnitude_vector" and not config.use_dora:
        return "a magnitude of DoRA, and the config does not say use_dora"
    expected = _expected_shape(part, shape, config.rank_of(name), leaf)
    if tuple(tensor.shape) != expected:
        return f"its shape is {tuple(tensor.shape)}, and {expected} is needed"
    if part.endswith("bias") and part != "lora_B.bias" and leaf.bias is None:
        return "a bias, and the module has none"
    return None


def _misfit_of_other(leaf: nn.Module, part: Part, tensor: Tensor) -> str | None:
    if part not in ("weight", "bias"):
        return f"LoRA is served on linear and embedding layers, and this is a {_kind(leaf)}"
    own = getattr(leaf, part, None)
    if not isinstance(own, Tensor):
        return f"a {_kind(leaf)} has no {part}"
    if own.shape != tensor.shape:
        return f"its shape is {tuple(tensor.shape)}, and {tuple(own.shape)} is needed"
    return None


def _expected_shape(
    part: Part, shape: tuple[int, int], rank: int, leaf: nn.Module
) -> tuple[int, ...]:
    num_in, num_out = shape
    match part:
        case "lora_A.weight" | "lora_embedding_A":
            return (rank, num_in)
        case "lora_B.weight" | "lora_embedding_B":
            return (num_out, rank)
        case "lora_B.bias" | "lora_magnitude_vector" | "base_layer.bias" | "bias":
            return (num_out,)
        case "base_layer.weight" | "weight":
            is_upright = isinstance(leaf, nn.Embedding) or hasattr(leaf, "nx")
            return (num_in, num_out) if is_upright else (num_out, num_in)


def _unmatched(config: AdapterConfig, modules: Mapping[str, object]) -> Iterator[str]:
    """Names in the config that no module of the file answers to."""
    targets = config.target_modules
    for name in targets if isinstance(targets, tuple) else ():
        if not any(module == name or module.endswith(f".{name}") for module in modules):
            yield f"target_modules names {name!r}, and no tensor is of such a module"
    for name in config.modules_to_save:
        if not any(module.endswith(name) or f"{name}." in module for module in modules):
            yield f"modules_to_save names {name!r}, and no tensor is of such a module"


def _kind(leaf: nn.Module) -> str:
    return type(leaf).__name__
