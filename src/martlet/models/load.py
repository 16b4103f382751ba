"""A model's folder made ready to run: loaded, guarded, its slow leaves replaced."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from martlet.errors import ModelError, UnsupportedArchitectureError
from martlet.models.causal_lm import CausalLM, logits_of, use_attention
from martlet.models.compiled.threads import (
    compile_all,
    compile_for_crowds,
    is_compiled_for,
    keeps_numbers,
)
from martlet.models.context import context_limit, first_scaled_position
from martlet.models.decoder.decoder import Decoder
from martlet.models.decoder.load import load_decoder
from martlet.models.decoder.wide import widen
from martlet.models.folder import ModelFolder
from martlet.models.gated_mlp import GatedMLP
from martlet.models.guard import LayerShape, check, own_logits, packed_logits
from martlet.models.heap import huge_pages, keep_freed_memory
from martlet.models.linear.integer import IntegerLinear
from martlet.models.swap import swap_leaves
from martlet.models.weights import Weights
from martlet.models.weights_cache import WeightsCache


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that the engine can run, and what the engine needs to know of it."""

    module: CausalLM
    layers: tuple[LayerShape, ...]
    vocab_size: int
    """Width of the logits; some ids at the end may have no text."""
    max_context_tokens: int
    """The longest sequence, prompt and reply; see `martlet.models.context`."""
    max_packed_tokens: int | None
    """The most tokens that one forward pass may hold; None if there is no limit."""
    chunked_layers: frozenset[int]
    """Layers that attend within stretches of `attention_chunk_size` positions."""
    attention_chunk_size: int | None
    own_norms: Mapping[str, nn.Module]
    """The RMS norms as transformers wrote them, by name: faster ones may stand in their places, and
    an adapter may bring weights for one."""
    last_mlp: GatedMLP | None
    """Of the last layer, where nothing but the LM head looks at its output, row by row: it computes
    the rows that the head will see and no others."""

    @property
    def dtype(self) -> torch.dtype:
        return self.module.dtype

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values that all layers store for a token, at most."""
        has_scales = keeps_numbers(self.dtype, self.device)
        return sum(
            layer.values_per_token * self.dtype.itemsize
            + (layer.scale_bytes_per_token if has_scales else 0)
            for layer in self.layers
        )

    def use_attention(self, name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
        """Makes the model call `function` in place of its own attention."""
        use_attention(self.module, name, function)

    def compile_for_crowd(self) -> None:
        """Has many requests computed by compiled functions, however narrow the model.

        It takes time; see `compile_for_crowds`. Wide models do so from the start.
        """
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            compile_for_crowds()
            _compile_products(self.module)

    @torch.inference_mode()
    def forward(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        logit_rows: Tensor,
        wants_all_rows: bool,
        martlet_step: object,
    ) -> Tensor:
        """One packed forward pass.

        Args:
            input_ids: `[1, T]`.
            position_ids: `[1, T]`.
            logit_rows: `[N]`; the other rows do not meet the LM head.
            wants_all_rows: Whether those are all rows in their order.
            martlet_step: Handed on to the attention function.

        Returns:
            Logits, `[N, V]`.
        """
        with self._last_mlp_computes(None if wants_all_rows else logit_rows):
            return logits_of(
                self.module,
                input_ids=input_ids,
                position_ids=position_ids,
                rows=logit_rows,
                martlet_step=martlet_step,
            )

    @contextmanager
    def _last_mlp_computes(self, rows: Tensor | None) -> Iterator[None]:
        if self.last_mlp is None or rows is None:
            yield
            return
        self.last_mlp.wanted_rows = rows
        try:
            yield
        finally:
            self.last_mlp.wanted_rows = None


def load_model(
    folder: ModelFolder,
    *,
    dtype: torch.dtype,
    device: torch.device,
    weights: Weights = "stored",
    weights_cache: Path | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads a folder for the engine.

    Args:
        weights: Whether to round its linear layers.
        weights_cache: A folder that packed weights are kept in, and read from the next time.

    Raises:
        ModelError: If it cannot be loaded, its layers cannot be rounded, or what is kept of it is
            broken.
        UnsupportedArchitectureError: If it loads and the guard refuses it.
    """
    keep_freed_memory()
    module = _load_module(folder, dtype, device, trust_remote_code=trust_remote_code)
    _compile_for(module)
    own_norms = {
        name: norm
        for name, norm in module.named_modules()
        if type(norm).__name__.endswith("RMSNorm")
    }
    if weights_cache is None:
        layers = _swap(module, weights)
    else:
        kept = WeightsCache.of(weights_cache, folder, dtype=dtype, weights=weights)
        layers = _swap_with(kept, module, weights)
    config = module.config.get_text_config()
    layer_types = getattr(config, "layer_types", None) or ()
    return LoadedModel(
        module=module,
        layers=layers,
        vocab_size=config.vocab_size,
        max_context_tokens=context_limit(module.config),
        max_packed_tokens=first_scaled_position(module.config),
        chunked_layers=frozenset(
            layer for layer, kind in enumerate(layer_types) if kind == "chunked_attention"
        ),
        attention_chunk_size=getattr(config, "attention_chunk_size", None),
        own_norms=own_norms,
        last_mlp=_last_mlp(module),
    )


def _swap(
    module: CausalLM, weights: Weights, kept: WeightsCache | None = None
) -> tuple[LayerShape, ...]:
    """Replaces the slow leaves of a module that computes what the guard allows.

    Args:
        kept: Where what they become is noted.

    Raises:
        UnsupportedArchitectureError: If it computes anything else.
    """
    expected = own_logits(module)
    # Rounding changes the logits by more than the guard allows, so it looks at the model before.
    layers = None if weights == "stored" else check(module, expected)
    _pack(module, weights, kept)
    return layers or check(module, expected)


def _swap_with(kept: WeightsCache, module: CausalLM, weights: Weights) -> tuple[LayerShape, ...]:
    """As `_swap`, by packed weights that are kept, which are written if they are not there."""
    if kept.logits is None:
        layers = _swap(module, weights, kept)
        kept.write(packed_logits(module))
        return layers
    _pack(module, weights, kept)
    try:
        return check(module, kept.logits)
    except UnsupportedArchitectureError as error:
        raise ModelError(
            f"the weights in {kept.path} compute something else than when they were written "
            f"({error}); remove the file, and it is made anew"
        ) from error


def _pack(module: CausalLM, weights: Weights, kept: WeightsCache | None) -> None:
    with huge_pages(sum(parameter.nbytes for parameter in module.parameters())):
        swap_leaves(module, weights, kept)
    if isinstance(module, Decoder):
        widen(module)
    _compile_products(module)


def _load_module(
    folder: ModelFolder, dtype: torch.dtype, device: torch.device, *, trust_remote_code: bool
) -> CausalLM:
    decoder = load_decoder(folder, dtype=dtype) if device.type == "cpu" else None
    if decoder is not None:
        return decoder
    from martlet.models.pretrained import load_module

    return load_module(folder, dtype=dtype, device=device, trust_remote_code=trust_remote_code)


def _compile_for(module: CausalLM) -> None:
    """Compiles what the model needs, if anything.

    Not in a thread beside other work on the model: both would wait for Python's lock, longer than
    one after the other.
    """
    embedding = module.get_input_embeddings().weight
    if isinstance(embedding, Tensor) and is_compiled_for(embedding, embedding.shape[-1]):
        compile_all()


def _compile_products(module: CausalLM) -> None:
    """Those of few bits: no step waits for them."""
    for each in module.modules():
        if isinstance(each, IntegerLinear | GatedMLP):
            each.compile_for(module.dtype)


def _last_mlp(module: CausalLM) -> GatedMLP | None:
    layers = getattr(module.get_decoder(), "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) else None
    return mlp if isinstance(mlp, GatedMLP) else None
