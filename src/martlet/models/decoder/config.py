"""Which folders hold the decoder that is written out here, and what their configs say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from martlet.models.folder import ModelFolder

_BIASED = ("q_proj", "k_proj", "v_proj")
_TYPES: Mapping[str, tuple[str, ...]] = {
    "llama": (),
    "mistral": (),
    "qwen2": _BIASED,
    "qwen3": (),
}
"""The model types, and the layers of each that have a bias whatever its config says."""
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
"""Whole numbers that a config must name: their defaults differ between the types."""
_REQUIRED: Mapping[str, object] = {"hidden_act": "silu"}
_UNUSUAL: Mapping[str, tuple[object, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "use_mrope": (False,),
    "use_sliding_window": (False,),
}
"""Settings that may be absent, and the values with which they change nothing."""
_HARMLESS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "head_dim",
        "initializer_range",
        "layer_types",
        "max_window_layers",
        "model_type",
        "pad_token_id",
        "pretraining_tp",
        "rms_norm_eps",
        "rope_parameters",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Settings that are read below, or that nothing depends on once a model is trained."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes of a decoder, by the names that transformers has for them."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    @property
    def has_head_norms(self) -> bool:
        """Whether the queries and keys of each head are normed."""
        return self.model_type == "qwen3"

    def has_bias(self, layer: str) -> bool:
        """Whether a linear layer, by the last part of its name, has a bias."""
        return layer in _TYPES[self.model_type]

    def get_text_config(self) -> Self:
        """Itself: as a config of transformers, it says where the language model's part is."""
        return self


def read_decoder_config(folder: ModelFolder) -> DecoderConfig | None:
    """The config of a folder, if it holds this decoder and is usual in every way; None if not.

    A setting that is not known, absent where types differ, or of the wrong type is not usual:
    transformers then reads the folder, or says what is wrong with it.
    """
    given = folder.config
    known = _HARMLESS | {*_SIZES, *_REQUIRED, *_UNUSUAL}
    if given.get("model_type") not in _TYPES or not known.issuperset(given):
        return None
    theta = _rope_theta(given)
    if theta is None or not _is_usual(given):
        return None
    sizes: dict[str, Any] = {name: given[name] for name in _SIZES}
    head_dim = given.get("head_dim") or sizes["hidden_size"] // sizes["num_attention_heads"]
    eps, ties = given.get("rms_norm_eps"), given.get("tie_word_embeddings", False)
    if type(head_dim) is not int or type(eps) is not float or type(ties) is not bool:
        return None
    return DecoderConfig(
        model_type=str(given["model_type"]),
        **sizes,
        head_dim=head_dim,
        rms_norm_eps=eps,
        rope_theta=theta,
        tie_word_embeddings=ties,
    )


def _is_usual(given: Mapping[str, object]) -> bool:
    sizes = [given.get(name) for name in _SIZES]
    return (
        all(type(size) is int and size > 0 for size in sizes)
        and all(given.get(name) == value for name, value in _REQUIRED.items())
        and all(given.get(name, usual[0]) in usual for name, usual in _UNUSUAL.items())
        and _looks_at_all(given)
    )


def _looks_at_all(given: Mapping[str, object]) -> bool:
    """Whether each layer attends to all that came before."""
    kinds = given.get("layer_types") or ["full_attention"]
    # Only these two types have a switch beside the width; that of others is one by itself.
    has_switch = given["model_type"] in ("qwen2", "qwen3") and "use_sliding_window" in given
    has_window = given.get("sliding_window") is not None and not has_switch
    # The default of Mistral, where a config names none, is a window.
    has_default = given["model_type"] == "mistral" and "sliding_window" not in given
    is_full = isinstance(kinds, list) and set(kinds) == {"full_attention"}
    return is_full and not has_window and not has_default


def _rope_theta(given: Mapping[str, object]) -> float | None:
    """The base of the plain rotary embedding; None if it is of another kind, or not named."""
    rope = given.get("rope_parameters")
    if rope is None:
        rope = {"rope_theta": given.get("rope_theta")}
    elif "rope_theta" in given:
        return None
    if not isinstance(rope, dict) or not {"rope_theta", "rope_type"}.issuperset(rope):
        return None
    theta = rope.get("rope_theta")
    is_plain = rope.get("rope_type", "default") == "default"
    return float(theta) if is_plain and isinstance(theta, int | float) else None
