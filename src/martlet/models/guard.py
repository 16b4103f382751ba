"""What a model must do for the engine to run it: tried on a few tokens, at load.

Some architectures never call the attention function that they are given, keep a state besides keys
and values, or mix the tokens of a row in other ways. On packed tokens they give wrong logits in
silence. The guard runs two short sequences packed in one row and compares them with what the model
computes by itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from martlet.errors import UnsupportedArchitectureError
from martlet.models.causal_lm import CausalLM, logits_of, use_attention
from martlet.models.decoder.decoder import Decoder
from martlet.models.memory import SCALE_BYTES

KNOWN_LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
PROBE_NAME = "martlet_probe"
"""The name under which transformers knows the guard's attention."""
LENGTHS = (5, 3)
"""Tokens of the two sequences of the probe."""
FIRST_KEPT = 1
"""The row from which on logits are asked for: a model must give those rows and no others."""
MAX_RELATIVE_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""How far packed logits may be from the model's own; a mix-up of tokens is an error of about 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShape:
    """What the attention of one layer computes and stores for a token."""

    num_heads: int
    """Of queries."""
    num_kv_heads: int
    key_dim: int
    value_dim: int
    is_plain: bool = True
    """Whether its attention is the softmax of products and nothing besides: no cap, no sinks."""

    @property
    def values_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim)

    @property
    def scale_bytes_per_token(self) -> int:
        """Where each head's key, and its value, has a scale."""
        return 2 * SCALE_BYTES * self.num_kv_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class _How:
    """What an architecture's attention does besides the softmax of products."""

    scaling: float | None
    softcap: float | None
    sinks: Tensor | None


class _Probe:
    """Plain attention within each sequence of the packed row, counting the calls of each layer."""

    def __init__(self) -> None:
        self.layers: dict[int, list[LayerShape]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
        shape = LayerShape(
            num_heads=query.shape[1],
            num_kv_heads=key.shape[1],
            key_dim=key.shape[3],
            value_dim=value.shape[3],
            is_plain=how.softcap is None and how.sinks is None,
        )
        self.layers.setdefault(layer, []).append(shape)
        parts = zip(*(t.split(LENGTHS, dim=2) for t in (query, key, value)), strict=True)
        return torch.cat([_attend(q, k, v, how) for q, k, v in parts], dim=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    """Causal attention of one sequence, `[1, H, T, D] -> [1, T, H, D]`, written out in fp32."""
    num_groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(num_groups, dim=1).float() for t in (key, value))
    scale = query.shape[-1] ** -0.5 if how.scaling is None else how.scaling
    scores = query.float() @ key.transpose(2, 3) * scale  # [1, H, T, T]
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    scores += torch.full_like(scores[0, 0], float("-inf")).triu(1)
    if how.sinks is not None:
        column = how.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = scores.softmax(dim=-1)[..., : key.shape[2]]
    mixed: Tensor = (weights @ value).to(query.dtype)
    return mixed.transpose(1, 2)


def _probe_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 -- part of transformers' signature
    *,
    martlet_probe: _Probe,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    how = _How(scaling=scaling, softcap=softcap, sinks=s_aux)
    return martlet_probe.attend(layer, query, key, value, how), None


@torch.inference_mode()
def own_logits(model: CausalLM) -> Tensor:
    """What a freshly loaded model computes by itself for the probe's sequences, each alone.

    Returns:
        `[rows, V]` in fp32, of all rows but the first.

    Raises:
        UnsupportedArchitectureError: If its layers are of a kind that the engine does not know.
    """
    _check_layer_types(model)
    if isinstance(model, Decoder):
        alone = [_logits_alone(model, tokens) for tokens in _sequences(model)]
    else:
        model.set_attn_implementation("eager")
        alone = [model(input_ids=tokens, use_cache=False).logits[0] for tokens in _sequences(model)]
    return torch.cat(alone)[FIRST_KEPT:].float()


def _logits_alone(model: Decoder, tokens: Tensor) -> Tensor:
    places = torch.arange(tokens.shape[1])
    return logits_of(model, input_ids=tokens, position_ids=places[None], rows=places)


@torch.inference_mode()
def check(model: CausalLM, expected: Tensor) -> tuple[LayerShape, ...]:
    """Proves on a few tokens that a model computes the same packed as the engine packs.

    Leaves the model with the guard's attention; the engine sets its own.

    Args:
        model: Ready to run, its slow leaves replaced.
        expected: From `own_logits`, before they were; or what `packed_logits` gave once.

    Returns:
        What each layer stores, in order.

    Raises:
        UnsupportedArchitectureError: If it does not; the message says what was seen.
    """
    probe = _Probe()
    got = _packed_logits(model, probe)
    layers = _check_calls(probe, model)
    _check_same(expected, got, model)
    return layers


@torch.inference_mode()
def packed_logits(model: CausalLM) -> Tensor:
    """What a model that `check` said yes to computes of the probe's sequences in one row.

    Returns:
        As `own_logits`.
    """
    return _packed_logits(model, _Probe())


def _check_layer_types(model: CausalLM) -> None:
    name = type(model).__name__
    config = model.config.get_text_config()
    unknown = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYER_TYPES
    if unknown:
        raise UnsupportedArchitectureError(
            f"{name} has layers that the engine does not know: {', '.join(sorted(unknown))}"
        )
    if not isinstance(model, Decoder) and not model._supports_attention_backend:
        raise UnsupportedArchitectureError(f"{name} does not let its attention be replaced")


def _sequences(model: CausalLM) -> list[Tensor]:
    """Two sequences `[1, T]` of different tokens."""
    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.arange(7, 7 + 13 * sum(LENGTHS), 13, device=model.device) % vocab_size
    return [part[None] for part in ids.split(LENGTHS)]


def _packed_logits(model: CausalLM, probe: _Probe) -> Tensor:
    """All rows but the first, both sequences in one row, by the probe's attention."""
    use_attention(model, PROBE_NAME, _probe_attention)
    positions = [torch.arange(length, device=model.device) for length in LENGTHS]
    try:
        logits = logits_of(
            model,
            input_ids=torch.cat(_sequences(model), dim=1),
            position_ids=torch.cat(positions)[None],
            rows=torch.arange(FIRST_KEPT, sum(LENGTHS), device=model.device),
            martlet_probe=probe,
        )
    except (TypeError, AttributeError) as error:
        # The model drops or refuses the keywords, or its attention does not know its layer.
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} takes no packed tokens: {error}"
        ) from error
    return logits.float()


def _check_calls(probe: _Probe, model: CausalLM) -> tuple[LayerShape, ...]:
    num_layers = model.config.get_text_config().num_hidden_layers
    calls = {layer: len(shapes) for layer, shapes in probe.layers.items()}
    if calls != dict.fromkeys(range(num_layers), 1):
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} calls its attention function {sum(calls.values())} times for "
            f"{num_layers} layers; the engine needs exactly one call a layer"
        )
    return tuple(probe.layers[layer][0] for layer in range(num_layers))


def _check_same(expected: Tensor, got: Tensor, model: CausalLM) -> None:
    limit = MAX_RELATIVE_ERROR[model.dtype]
    if got.shape != expected.shape:
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} gives logits of the shape {tuple(got.shape)} where "
            f"{tuple(expected.shape)} were asked for"
        )
    expected, got = (t - t.mean(dim=-1, keepdim=True) for t in (expected, got))
    errors = (got - expected).norm(dim=-1) / expected.norm(dim=-1)  # [rows]
    # Rounding may send a token of a mixture to another expert, so one row may be off in bf16.
    error = (errors.max() if model.dtype == torch.float32 else errors.median()).item()
    if not error <= limit:
        raise UnsupportedArchitectureError(
            f"{type(model).__name__} computes something else on packed tokens: its logits are off "
            f"by {error:.2g} of their size, and {limit:g} is allowed"
        )
