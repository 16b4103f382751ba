"""A decoder's measures, read from its config, under all the names that configs have for them."""

from collections.abc import Mapping
from dataclasses import dataclass

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a config tells about a decoder; None where it does not tell."""

    num_layers: int | None
    num_attention_layers: int | None
    """Layers that keep keys and values; the others keep a state of fixed size."""
    num_heads: int | None
    num_kv_heads: int | None
    """Heads of keys and values, as they reach the attention function."""
    key_dim: int | None
    """Length of one head's key, and of its query."""
    value_dim: int | None
    """Length of one head's value; it differs from `key_dim` in DeepSeek's attention alone."""
    max_context_tokens: int | None
    """The longest sequence that the positions allow."""


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part of a config that describes the text decoder: all of it, or its `text_config`."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def read_shape(config: Mapping[str, object]) -> ModelShape:
    """Reads the measures of the text decoder from a parsed config.json."""
    text = text_config(config)
    num_layers, num_heads = _first_int(text, _LAYERS), _first_int(text, _HEADS)
    head_dim = _head_dim(text, num_heads)
    num_kv_heads, key_dim, value_dim = _num_kv_heads(text, num_heads), head_dim, head_dim
    if "kv_lora_rank" in text:
        # The latent is expanded to full heads before transformers calls the attention function.
        num_kv_heads = num_heads
        key_dim = _sum(text, "qk_nope_head_dim", "qk_rope_head_dim")
        value_dim = _first_int(text, ("v_head_dim",))
    return ModelShape(
        num_layers=num_layers,
        num_attention_layers=_num_attention_layers(text, num_layers),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        max_context_tokens=_first_int(text, _CONTEXT),
    )


def _first_int(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int):
            return value
    return None


def _sum(config: Mapping[str, object], first: str, second: str) -> int | None:
    one, other = _first_int(config, (first,)), _first_int(config, (second,))
    return None if one is None or other is None else one + other


def _head_dim(config: Mapping[str, object], num_heads: int | None) -> int | None:
    head_dim, hidden_size = _first_int(config, ("head_dim",)), _first_int(config, _HIDDEN)
    if head_dim is not None or hidden_size is None or not num_heads:
        return head_dim
    return hidden_size // num_heads


def _num_kv_heads(config: Mapping[str, object], num_heads: int | None) -> int | None:
    # Falcon's first generation has one head of keys, whatever `num_kv_heads` says.
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    num_kv_heads = _first_int(config, _KV_HEADS)
    return num_heads if num_kv_heads is None else num_kv_heads


def _num_attention_layers(config: Mapping[str, object], num_layers: int | None) -> int | None:
    layer_types = config.get("layer_types")
    if not isinstance(layer_types, list):
        return num_layers
    kinds = [str(kind) for kind in layer_types]
    return sum(kind.endswith("attention") and kind != "linear_attention" for kind in kinds)
