"""A language model, whether transformers wrote it or it is written out here, and its two hooks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from martlet.models.decoder.decoder import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CausalLM: TypeAlias = "PreTrainedModel | Decoder"


def use_attention(model: CausalLM, name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Makes a model call `function` in place of its own attention.

    Args:
        name: Under which transformers will know it.
    """
    if isinstance(model, Decoder):
        model.attention = function
        return
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    model.set_attn_implementation(name)


def logits_of(
    model: CausalLM, *, input_ids: Tensor, position_ids: Tensor, rows: Tensor, **step: Any
) -> Tensor:
    """One packed forward pass without a cache.

    Args:
        input_ids: `[1, T]`.
        position_ids: `[1, T]`.
        rows: `[N]`; the other rows do not meet the LM head.
        step: Handed on to the attention function.

    Returns:
        `[N, V]`.
    """
    given = {"input_ids": input_ids, "position_ids": position_ids, "logits_to_keep": rows, **step}
    if isinstance(model, Decoder):
        logits: Tensor = model(**given)
    else:
        logits = model(**given, use_cache=False).logits
    return logits[0]
