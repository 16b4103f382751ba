"""Attention over several sequences in one row, each seeing itself alone.

Rows of different lengths are put behind one another instead of being padded to the longest. The
engine's attention does the same for serving; this one has a backward pass.
"""

from collections.abc import MutableMapping

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, PreTrainedModel

ATTENTION_NAME = "martlet_segments"
_TOLERANCE = 1e-3
_PROBE_LENGTHS = (7, 5)
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux")
_KNOWN_ENDS: MutableMapping[Tensor, list[int]] = WeakTensorKeyDictionary()
"""Of the steps that are being computed."""


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_ends: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **other: object,
) -> tuple[Tensor, None]:
    """Causal attention within each segment, as transformers calls it.

    Args:
        query: `[1, H, T, D]`.
        key: `[1, K, T, D]`, with K dividing H.
        value: `[1, K, T, D]`.
        segment_ends: `[S]`, ascending, the last one T; None for one sequence.
        other: What the architecture adds.

    Returns:
        `[1, T, H, D]`, and nothing for the attention weights.

    Raises:
        ValueError: If the architecture asks for more than causal attention.
    """
    if asked := [name for name in _UNSUPPORTED if other.get(name) is not None]:
        raise ValueError(f"attention in segments knows no {asked[0]}")
    num_groups = query.shape[1] // key.shape[1]
    is_on_cpu = query.device.type == "cpu"
    if num_groups > 1 and is_on_cpu:  # whose fused kernel is slow with enable_gqa
        key, value = (part.repeat_interleave(num_groups, dim=1) for part in (key, value))
    ends = [query.shape[2]] if segment_ends is None else _read(segment_ends)
    pieces = [
        scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            is_causal=True,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=num_groups > 1 and not is_on_cpu,
        )
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _read(segment_ends: Tensor) -> list[int]:
    """Its numbers, read once a step: in each layer anew, a GPU would be waited for as often."""
    ends = _KNOWN_ENDS.get(segment_ends)
    if ends is None:
        _KNOWN_ENDS[segment_ends] = ends = segment_ends.tolist()
    return ends


@torch.no_grad()
def attend_in_segments(model: PreTrainedModel) -> bool:
    """Switches a model to this attention if it computes the same with it.

    Some architectures want more than causal attention (windows, sinks, soft caps) or keep a state
    of their own; those stay as they are, and their rows are padded.

    Returns:
        Whether the model was switched.
    """
    config = model.config.get_text_config()
    # Windows by layer would show in sequences only that are longer than they are.
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    generator = torch.Generator().manual_seed(0)
    vocab_size = config.vocab_size
    sequences = [
        torch.randint(vocab_size, (1, length), generator=generator).to(model.device)
        for length in _PROBE_LENGTHS
    ]
    was_training, own = model.training, model.config._attn_implementation
    model.eval()
    alone = [model(input_ids=each, use_cache=False).logits for each in sequences]
    AttentionInterface.register(ATTENTION_NAME, segment_attention)
    try:
        model.set_attn_implementation(ATTENTION_NAME)
        together = model(**packed_inputs(sequences), use_cache=False).logits
        is_same = _is_close(together, torch.cat(alone, dim=1))
    except (TypeError, ValueError, RuntimeError, AttributeError):
        is_same = False
    if not is_same:
        model.set_attn_implementation(own)
    model.train(was_training)
    return is_same


def packed_inputs(sequences: list[Tensor]) -> dict[str, Tensor]:
    """Sequences `[1, L]` as the inputs of one forward pass over `[1, T]`."""
    lengths = [each.shape[1] for each in sequences]
    positions = [torch.arange(length) for length in lengths]
    device = sequences[0].device
    return {
        "input_ids": torch.cat(sequences, dim=1),
        "position_ids": torch.cat(positions)[None].to(device),
        "segment_ends": torch.tensor(lengths).cumsum(0),
    }


def _is_close(logits: Tensor, expected: Tensor) -> bool:
    """Whether the difference is that of rounding: small beside the spread of the logits."""
    logits, expected = logits.float(), expected.float()
    tolerance = _TOLERANCE if logits.dtype == torch.float32 else 0.1
    return bool((logits - expected).abs().max() <= tolerance * expected.std() * 10)
