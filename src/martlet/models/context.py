"""How long a sequence may be, short of where a request would change its neighbours in a batch."""

from typing import TYPE_CHECKING, TypeAlias

from martlet.models.decoder.config import DecoderConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Config: TypeAlias = "PretrainedConfig | DecoderConfig"

FALLBACK_CONTEXT_TOKENS = 2048
"""Assumed where a config does not say how long a sequence may be."""
_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_STRETCHING_ROPES = frozenset({"longrope", "dynamic"})


def positions_allow(config: Config) -> int:
    """The longest sequence, prompt and reply, that a model has positions for."""
    text = config.get_text_config()
    named = [getattr(text, name, None) for name in _NAMES]
    return next((int(limit) for limit in named if isinstance(limit, int)), FALLBACK_CONTEXT_TOKENS)


def context_limit(config: Config) -> int:
    """The longest sequence that is computed alike whoever shares its batch.

    With `longrope` and `dynamic`, transformers stretches the rotary embedding of a whole batch by
    the largest position in it; below the length that the model was first trained on, nothing
    stretches.
    """
    text = config.get_text_config()
    limit = min(positions_allow(config), first_scaled_position(config) or positions_allow(config))
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *(each for each in ropes.values() if isinstance(each, dict))):
        if rope.get("rope_type") in _STRETCHING_ROPES:
            original = getattr(text, "original_max_position_embeddings", None)
            original = original or rope.get("original_max_position_embeddings") or limit
            limit = min(limit, int(original))
    return limit


def first_scaled_position(config: Config) -> int | None:
    """Where Llama 4 begins to scale queries, by their place in the row instead of their sequence.

    Below it the scale is 1 in both, so no row may hold more tokens. None for other models.
    """
    text = config.get_text_config()
    if isinstance(text, DecoderConfig) or not getattr(text, "attn_temperature_tuning", False):
        return None
    return int(text.floor_scale) - 1
