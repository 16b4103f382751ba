"""An adapter added into its base's weights, shard by shard, the sums in fp32.

The formulas are PEFT's: W + scaling B A (arXiv:2106.09685), rsLoRA's scaling (arXiv:2312.03732),
DoRA's magnitude over the norm of the sum (arXiv:2402.09353).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from martlet.errors import AdapterError, ModelError, ParameterError
from martlet.export.skeleton import skeleton, tensor_name
from martlet.export.weights import check_out, rewrite, write_json
from martlet.lora.base import BaseLeaves
from martlet.lora.config import AdapterConfig
from martlet.lora.folder import AdapterFolder, Part
from martlet.lora.landing import check_landing
from martlet.lora.provenance import TEMPLATE_NAME, Provenance, read_provenance
from martlet.models.companions import copy_companions
from martlet.models.folder import ModelFolder

DTYPES: Mapping[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
_STORED = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}

Parts = Mapping[Part, Tensor]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """An adapter and a base that fit, checked before anything is computed."""

    base: ModelFolder
    adapter: AdapterFolder
    by_tensor: Mapping[str, tuple[str, Parts]]
    """What changes a tensor of the base's files, with its module's name."""
    new_head: tuple[str, str, Parts] | None
    """The head's tensor, its module and its changes, if it shared the embedding's weight so far."""
    dtype: torch.dtype
    embedding: str
    """Name of the embedding's tensor."""
    untied: bool
    """Whether embedding and head part ways."""
    transposed: frozenset[str]
    """Modules whose weight is `[in, out]`."""


def base_dtype(folder: ModelFolder) -> str:
    """The dtype that most of a folder's weights are stored in: bf16, fp16 or fp32."""
    sizes: dict[str, int] = {}
    for tensor in folder.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    most = max(sizes, key=lambda name: sizes[name])
    if most not in _STORED:
        raise ModelError(f"{folder.path} stores {most}; an adapter merges into bf16, fp16 or fp32")
    return _STORED[most]


def plan_merge(base: ModelFolder, adapter: AdapterFolder, *, out: Path, dtype: str | None) -> Merge:
    """Checks everything about a merge that can be checked before it begins.

    Args:
        base: The model that the adapter was trained on.
        adapter: A PEFT folder.
        out: The new folder.
        dtype: bf16, fp16 or fp32; None for the base's own.

    Raises:
        AdapterError: If a tensor does not fit.
        ModelError: If the base is quantised.
        ParameterError: If `out` holds something, or the dtype is unknown.
        ResourceError: If the disk has too little room.
    """
    if base.quantization_method is not None:
        raise ModelError(
            f"{base.path} is quantised ({base.quantization_method}): an adapter merges into the "
            "model as it was before; merge first, then quantise"
        )
    name = dtype or base_dtype(base)
    if name not in DTYPES:
        raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}, not {name!r}")
    check_out(out, needed_bytes=base.num_parameters * DTYPES[name].itemsize)
    model = skeleton(base)
    tensors = adapter.load()
    leaves = BaseLeaves.of(model, {})
    check_landing(adapter, tensors, leaves)
    return _placed(base, adapter, model, leaves, tensors.by_module, DTYPES[name])


def check_base(base: ModelFolder, adapter: AdapterFolder) -> Provenance | None:
    """Refuses a base that an adapter was not trained on.

    Returns:
        Where the adapter comes from; None if its folder does not say.

    Raises:
        AdapterError: If it was trained on another one.
    """
    provenance = read_provenance(adapter.path)
    if provenance is not None and provenance.base_hash != base.model_hash:
        raise AdapterError(
            f"{adapter.path} was trained on {provenance.base} (hash {provenance.base_hash[:16]}), "
            f"and {base.path} has hash {base.model_hash[:16]}: merged onto another base it means "
            "nothing; give the model of its training with --model"
        )
    return provenance


def _placed(
    base: ModelFolder,
    adapter: AdapterFolder,
    model: PreTrainedModel,
    leaves: BaseLeaves,
    by_module: Mapping[str, Parts],
    dtype: torch.dtype,
) -> Merge:
    by_tensor: dict[str, tuple[str, Parts]] = {}
    new_head = None
    embedding = tensor_name(base, model, leaves.embedding, "weight") or ""
    is_tied = tensor_name(base, model, leaves.head, "weight") is None
    for module, parts in by_module.items():
        weight = tensor_name(base, model, module, "weight")
        if weight is None and module == leaves.head and is_tied:
            new_head = (f"{leaves.head}.weight", module, parts)
        elif weight is None:
            raise AdapterError(
                f"{base.path} stores the weight of {module} under another name, together with "
                "others; serve the adapter un-merged, or merge it with PEFT"
            )
        else:
            by_tensor[weight] = (module, parts)
            if bias := tensor_name(base, model, module, "bias"):
                by_tensor[bias] = (module, parts)
            elif "lora_B.bias" in parts:
                raise AdapterError(
                    f"{adapter.path} adds a bias to {module}, and the model has no place for one "
                    "there; serve the adapter un-merged"
                )
    touches_one_end = new_head is not None or leaves.embedding in by_module
    if is_tied and leaves.embedding in by_module and new_head is None:
        # Trained beside a head that stayed as it was.
        new_head = (f"{leaves.head}.weight", leaves.head, {})
    return Merge(
        base=base,
        adapter=adapter,
        by_tensor=by_tensor,
        new_head=new_head,
        dtype=dtype,
        embedding=embedding,
        untied=is_tied and touches_one_end,
        transposed=frozenset(n for n, leaf in leaves.leaves.items() if hasattr(leaf, "nx")),
    )


@torch.inference_mode()
def write_merged(merge: Merge, draft: Path, report: Callable[[int, int], None]) -> None:
    """Writes the merged model with everything that belongs to it.

    Args:
        merge: From `plan_merge`.
        draft: An empty folder.
        report: Called with the tensors that are done and all of them.
    """
    rewrite(merge.base, draft, lambda name, own: _merged(merge, name, own), report)
    copy_companions(merge.base.path, draft)
    template = merge.adapter.path / TEMPLATE_NAME
    if template.is_file():
        (draft / TEMPLATE_NAME).write_bytes(template.read_bytes())
    config = {**merge.base.config, "dtype": str(merge.dtype).removeprefix("torch.")}
    config.pop("torch_dtype", None)
    if merge.untied:
        config["tie_word_embeddings"] = False
    write_json(draft / "config.json", config)


def _merged(merge: Merge, name: str, own: Tensor) -> Mapping[str, Tensor]:
    """What becomes of one tensor of the base."""
    if not own.is_floating_point():
        return {name: own}
    value = own.float()
    written = {}
    if name == merge.embedding and merge.new_head is not None:
        head, module, parts = merge.new_head
        written[head] = _weight(value, parts, merge.adapter.config, module).to(merge.dtype)
    if name in merge.by_tensor:
        module, parts = merge.by_tensor[name]
        if name.endswith(".bias"):
            value = _bias(value, parts, merge.adapter.config, module)
        else:
            value = _oriented_weight(value, parts, merge, module)
    return {name: value.to(merge.dtype), **written}


def _oriented_weight(own: Tensor, parts: Parts, merge: Merge, module: str) -> Tensor:
    if module in merge.transposed and "weight" not in parts:
        return _weight(own.T, parts, merge.adapter.config, module).T
    return _weight(own, parts, merge.adapter.config, module)


def _weight(own: Tensor, parts: Parts, config: AdapterConfig, module: str) -> Tensor:
    """The merged weight in fp32: `[out, in]`, of an embedding `[num_embeddings, out]`."""
    if "weight" in parts:
        return parts["weight"].float()
    if "lora_embedding_A" in parts:
        down, up = parts["lora_embedding_A"].float(), parts["lora_embedding_B"].float()
        merged, axis = own + (up @ down).T * config.scaling_of(module), 0
    elif "lora_A.weight" in parts:
        down, up = parts["lora_A.weight"].float(), parts["lora_B.weight"].float()
        merged, axis = own + up @ down * config.scaling_of(module), 1
    else:
        return own
    if "lora_magnitude_vector" not in parts:
        return merged
    ratio = parts["lora_magnitude_vector"].float() / merged.norm(dim=axis)
    scaled: Tensor = merged * ratio.unsqueeze(axis)
    return scaled


def _bias(own: Tensor, parts: Parts, config: AdapterConfig, module: str) -> Tensor:
    trained = parts.get("bias", parts.get("base_layer.bias"))
    bias = own if trained is None else trained.float()
    if "lora_B.bias" in parts:
        bias = bias + parts["lora_B.bias"].float() * config.scaling_of(module)
    return bias
