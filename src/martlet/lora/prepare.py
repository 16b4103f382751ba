"""From a folder to a revision in memory: read, check, scale, convert. Touches no running model."""

import copy
from typing import overload

import torch
from torch import Tensor, nn

from martlet.errors import AdapterError
from martlet.lora.base import BaseLeaves
from martlet.lora.config import AdapterConfig
from martlet.lora.folder import AdapterFolder, AdapterTensors, Part
from martlet.lora.landing import check_landing
from martlet.lora.revision import AdapterRevision, Delta
from martlet.lora.weights import columns, features
from martlet.models.linear.compiled_low_rank import RankPanels
from martlet.models.linear.fastest import fastest_bf16


@torch.inference_mode()
def prepare(name: str, folder: AdapterFolder, base: BaseLeaves) -> AdapterRevision:
    """Reads an adapter and computes everything that serving it needs.

    Any thread may call it while the model runs.

    Args:
        name: What requests will call it.
        folder: Where it is read from, now.
        base: What it will be put around.

    Raises:
        AdapterError: If a tensor does not fit, is lacking or is not finite, if the adapter was
            trained on another embedding or head, or if it cannot change anything.
    """
    tensors = folder.load()
    num_tensors = check_landing(folder, tensors, base)
    _check_tying(folder, tensors, base)
    builder = _Builder(folder, base)
    deltas = {
        module: builder.build(module, dict(parts)) for module, parts in tensors.by_module.items()
    }
    if all(_changes_nothing(delta, base.dtype) for delta in deltas.values()):
        raise AdapterError(
            f"{folder.path} changes nothing: its matrices are as they were before training (the "
            "product of each pair is zero); give the folder that training wrote at its end"
        )
    return AdapterRevision(
        name=name,
        path=folder.path,
        revision=tensors.revision,
        ranks=tuple(sorted({delta.rank for delta in deltas.values() if delta.rank})),
        num_tensors=tensors.num_tensors,
        num_tensors_expected=num_tensors,
        deltas=deltas,
    )


class _Builder:
    """Makes the delta of one leaf after the other."""

    def __init__(self, folder: AdapterFolder, base: BaseLeaves) -> None:
        self._path = folder.path
        self._config: AdapterConfig = folder.config
        self._base = base

    def build(self, module: str, parts: dict[Part, Tensor]) -> Delta:
        parts = {part: tensor.to(self._base.device).float() for part, tensor in parts.items()}
        leaf = self._base.leaves[module]
        if "base_layer.weight" in parts:
            self._check_same_base(module, leaf, parts["base_layer.weight"])
        if "weight" in parts:
            return Delta(replacement=self._linear(leaf, parts) or self._twin(module, parts))
        if isinstance(leaf, nn.Embedding):
            return self._embedding_delta(module, leaf, parts)
        if features(leaf) is not None:
            return self._linear_delta(module, leaf, parts)
        return Delta(replacement=self._twin(module, parts))

    def _linear_delta(self, module: str, leaf: nn.Module, parts: dict[Part, Tensor]) -> Delta:
        bias = parts.get("bias", parts.get("base_layer.bias"))
        shift = None if bias is None else bias - _tensor(leaf.bias).float()
        if "lora_A.weight" not in parts:
            return Delta(shift=self._converted(shift))
        scaling = self._config.scaling_of(module)
        down, up = parts["lora_A.weight"], parts["lora_B.weight"].T * scaling  # [r, in], [r, out]
        gain = None
        if "lora_magnitude_vector" in parts:
            squares = torch.zeros_like(parts["lora_magnitude_vector"])
            for where, own in columns(leaf, self._base.dtype, self._base.device):
                squares += (own + down[:, where].T @ up).square().sum(dim=0)
            ratio = parts["lora_magnitude_vector"] / squares.sqrt()
            gain, up = ratio - 1, up * ratio
        if "lora_B.bias" in parts:
            own_shift = parts["lora_B.bias"] * scaling
            shift = own_shift if shift is None else shift + own_shift
        down, up = self._converted(down), self._converted(up)
        panels = RankPanels.of(down, up)
        return Delta(
            down=down if panels is None else None,
            up=up if panels is None else None,
            panels=panels,
            gain=self._converted(gain),
            shift=self._converted(shift),
        )

    def _embedding_delta(self, module: str, leaf: nn.Embedding, parts: dict[Part, Tensor]) -> Delta:
        down = parts["lora_embedding_A"].T  # [num_embeddings, r]
        up = parts["lora_embedding_B"].T * self._config.scaling_of(module)  # [r, out]
        gain = None
        if "lora_magnitude_vector" in parts:
            norm = (leaf.weight.float() + down @ up).norm(dim=0)
            ratio = parts["lora_magnitude_vector"] / norm
            gain, up = ratio - 1, up * ratio
        # Gemma's embedding multiplies what it looks up.
        scale = getattr(leaf, "embed_scale", None)
        if isinstance(scale, Tensor):
            up = up * scale.to(leaf.weight.dtype).float()
        return Delta(down=self._converted(down), up=self._converted(up), gain=self._converted(gain))

    def _linear(self, leaf: nn.Module, parts: dict[Part, Tensor]) -> nn.Module | None:
        """A linear layer with the adapter's own weight; None for a leaf that is not linear."""
        shape = None if isinstance(leaf, nn.Embedding) else features(leaf)
        if shape is None:
            return None
        weight = parts["weight"].T if hasattr(leaf, "nx") else parts["weight"]
        bias = parts.get("bias", leaf.bias)
        linear = nn.utils.skip_init(nn.Linear, *shape, bias=isinstance(bias, Tensor))
        linear.weight = _parameter(self._converted(weight))
        if isinstance(bias, Tensor):
            linear.bias = _parameter(self._converted(bias))
        faster = fastest_bf16(linear) if linear.weight.dtype == torch.bfloat16 else None
        return linear if faster is None else faster

    def _twin(self, module: str, parts: dict[Part, Tensor]) -> nn.Module:
        """A copy of a norm or an embedding with the adapter's own parameters."""
        leaf = self._base.own_norms.get(module, self._base.leaves[module])
        # What the memo already knows is not copied.
        memo: dict[int, object] = {
            id(leaf.get_parameter(part)): _parameter(self._converted(tensor))
            for part, tensor in parts.items()
        }
        return copy.deepcopy(leaf, memo)

    @overload
    def _converted(self, tensor: Tensor) -> Tensor: ...
    @overload
    def _converted(self, tensor: None) -> None: ...
    def _converted(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        # A copy always: the file's pages change with the file.
        return tensor.to(self._base.device, self._base.dtype, copy=True).contiguous()

    def _check_same_base(self, module: str, leaf: nn.Module, saved: Tensor) -> None:
        """PEFT saves the base's embedding and head along with an adapter on them."""
        if isinstance(leaf, nn.Embedding):
            own = leaf.weight.float()
        else:
            parts = columns(leaf, self._base.dtype, self._base.device)
            own = torch.cat([part for _, part in parts]).T
        difference = (own - saved).norm() / own.norm()
        if not difference <= 4 * torch.finfo(self._base.dtype).eps:
            raise AdapterError(
                f"{self._path} was trained on another {module} than this model has (it saved a "
                f"copy, and that is off by {difference:.2g} of its size); it was made for "
                f"{self._config.base_model}"
            )


def _check_tying(folder: AdapterFolder, tensors: AdapterTensors, base: BaseLeaves) -> None:
    ends = {base.embedding, base.head} & set(tensors.by_module)
    if folder.config.ensure_weight_tying and len(ends) == 1:
        raise AdapterError(
            f"{folder.path}: ensure_weight_tying adapted embedding and head together, and only "
            f"{ends.pop()} is in the file; that is not supported: merge it with PEFT"
        )


def _changes_nothing(delta: Delta, dtype: torch.dtype) -> bool:
    if delta.replacement is not None:
        return False  # The probe tells.
    # The magnitudes of an untrained DoRA are the base's norms, up to rounding.
    rounding = 8 * torch.finfo(dtype).eps
    has_no_product = not all(factor is not None and factor.any() for factor in delta.factors)
    has_no_gain = delta.gain is None or bool((delta.gain.abs() <= rounding).all())
    has_no_shift = delta.shift is None or not delta.shift.any()
    return has_no_product and has_no_gain and has_no_shift


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor), "landing refuses a bias where the module has none"
    return value


def _parameter(tensor: Tensor | None) -> nn.Parameter:
    assert tensor is not None
    return nn.Parameter(tensor, requires_grad=False)
