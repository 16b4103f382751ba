"""The decoder: an embedding, layers of attention and a gated MLP, a norm, and the LM head.

Each module has the name that transformers gives it and computes the same operations in the same
order, so that weights and adapters find their places and the bits are the same.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.decoder.config import DecoderConfig
from martlet.models.decoder.rotation import Rotation

AttentionFunction = Callable[..., tuple[Tensor, None]]
"""As in transformers: `(module, query, key, value, mask, *, scaling, ...)`, `[1, H, T, D]` each."""


def causal_attention(
    module: nn.Module,  # noqa: ARG001 -- part of the signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
) -> tuple[Tensor, None]:
    """Each token attends to itself and to all before it, `[1, H, T, D] -> [1, T, H, D]`."""
    mixed = F.scaled_dot_product_attention(
        query, key, value.to(key.dtype), mask, is_causal=True, scale=scaling, enable_gqa=True
    )
    return mixed.transpose(1, 2), None


class RMSNorm(nn.Module):
    """Root mean square norm over the last axis (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D] -> [..., D]`."""
        wide = x.float()
        variance = wide.pow(2).mean(-1, keepdim=True)
        normed: Tensor = self.weight * (wide * torch.rsqrt(variance + self.variance_epsilon)).to(
            x.dtype
        )
        return normed


class RotaryEmbedding(nn.Module):
    """The angles that rotate queries and keys by their position (Su et al., arXiv:2104.09864)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        even = torch.arange(0, config.head_dim, 2, dtype=torch.float, device="cpu")
        self._frequencies = 1.0 / (config.rope_theta ** (even / config.head_dim))

    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine, `[1, T] -> [1, 1, T, D]` each."""
        half = position_ids[:, None, :, None].float() * self._frequencies
        angles = torch.cat((half, half), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class MLP(nn.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer, arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        outer, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = _linear(config, "gate_proj", outer, inner)
        self.up_proj = _linear(config, "up_proj", outer, inner)
        self.down_proj = _linear(config, "down_proj", inner, outer)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[1, T, D] -> [1, T, D]`."""
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al., arXiv:2305.13245) by the decoder's function."""

    def __init__(self, config: DecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        outer, queries = config.hidden_size, config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = _linear(config, "q_proj", outer, queries)
        self.k_proj = _linear(config, "k_proj", outer, keys)
        self.v_proj = _linear(config, "v_proj", outer, keys)
        self.o_proj = _linear(config, "o_proj", queries, outer)
        if config.has_head_norms:
            self.q_norm: nn.Module = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm: nn.Module = RMSNorm(config.head_dim, config.rms_norm_eps)
        self._has_norms = config.has_head_norms
        self.rotation = Rotation(config.head_dim, outer)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        attend: AttentionFunction,
        **step: object,
    ) -> Tensor:
        """`[1, T, D] -> [1, T, D]`."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        query, key = self.q_proj(x).view(shape), self.k_proj(x).view(shape)
        if self._has_norms:
            query, key = self.q_norm(query), self.k_norm(key)
        value = self.v_proj(x).view(shape).transpose(1, 2)
        query, key = self.rotation(query, key, angles)
        mixed, _ = attend(self, query, key, value, None, scaling=self.head_dim**-0.5, **step)
        out: Tensor = self.o_proj(mixed.reshape(*x.shape[:-1], -1).contiguous().to(x.dtype))
        return out


class Layer(nn.Module):
    """Attention, then the MLP, each on what was normed and added to what was not."""

    def __init__(self, config: DecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer_idx)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        attend: AttentionFunction,
        **step: object,
    ) -> Tensor:
        """`[1, T, D] -> [1, T, D]`."""
        x = x + self.self_attn(self.input_layernorm(x), angles, attend, **step)
        mixed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


class Stack(nn.Module):
    """All but the LM head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        # Drawn at random, as it would be without a weight, it imports the compiler of PyTorch.
        weight = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens: nn.Embedding = nn.Embedding.from_pretrained(weight)
        self.layers = nn.ModuleList(
            Layer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)


class Decoder(nn.Module):
    """A language model whose attention is a function that its user sets.

    Its parameters have no memory of their own until weights are assigned to them.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.model = Stack(config)
            self.lm_head = _linear(config, "lm_head", config.hidden_size, config.vocab_size)
        self.attention: AttentionFunction = causal_attention
        """Called by each layer once; `causal_attention` unless another one was set."""
        self.residual_dtype: torch.dtype | None = None
        """Of what goes from layer to layer, and of the angles; see `wide`."""

    def forward(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        logits_to_keep: Tensor,
        **step: Any,
    ) -> Tensor:
        """Logits of the wanted rows.

        Args:
            input_ids: `[1, T]`.
            position_ids: `[1, T]`.
            logits_to_keep: `[N]`.
            step: Handed on to the attention function.

        Returns:
            `[1, N, V]`.
        """
        x = self.model.embed_tokens(input_ids)
        x = x.to(self.residual_dtype or x.dtype)
        angles = self.model.rotary_emb(position_ids, x.dtype)
        for layer in self.model.layers:
            x = layer(x, angles, self.attention, **step)
        logits: Tensor = self.lm_head(self.model.norm(x)[:, logits_to_keep])
        return logits

    @property
    def dtype(self) -> torch.dtype:
        """Of what it computes in."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.model.norm.weight.device

    def get_decoder(self) -> nn.Module:
        """All but the LM head, as transformers calls it."""
        return self.model

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """The LM head."""
        return self.lm_head


def _linear(config: DecoderConfig, name: str, num_inputs: int, num_outputs: int) -> nn.Linear:
    return nn.Linear(num_inputs, num_outputs, bias=config.has_bias(name))
