"""A layer of the decoder written down as calls of compiled functions, all but its attention.

Shapes: M rows, Hq query heads, Hkv key-value heads, D their width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from martlet.models.compiled.threads import is_compiled_for
from martlet.models.decoder.config import DecoderConfig
from martlet.models.decoder.decoder import Layer
from martlet.models.decoder.rotation import FusedRotation
from martlet.models.gated_mlp import GatedMLP
from martlet.models.linear.compact import CompactLinear
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.joined import LinearPart
from martlet.models.linear.written import WrittenLinear, scratch_bytes
from martlet.models.norm import FusedRMSNorm
from martlet.models.openmp import Call


class RowPlaces:
    """The addresses at which the layers leave what they make of rows, each in turn.

    Args:
        num_rows: As many as there may be. Memory that no row reaches is never touched.
    """

    def __init__(self, config: DecoderConfig, num_rows: int) -> None:
        width, inner = config.hidden_size, config.intermediate_size
        heads = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.rows = torch.empty(num_rows, width)
        """`[M, width]`: what goes from layer to layer, in fp32."""
        self.results = _rows(num_rows, width)
        """`[M, width]`: its norm, at the end the last one."""
        self._added = torch.empty_like(self.rows)
        sizes = (heads + 2 * keys, inner, inner)
        self._others = [torch.empty(num_rows, size) for size in sizes]
        self._others += [_rows(num_rows, size) for size in (heads, inner)]
        self._others.append(_scratch(num_rows, max(width, inner, heads)))
        self.x, self.normed = self.rows.data_ptr(), self.results.data_ptr()
        self.added = self._added.data_ptr()
        """What is to be added to x, in fp32."""
        self.projected, self.gate, self.up, self.mixed, self.hidden, self.scratch = (
            tensor.data_ptr() for tensor in self._others
        )
        """In fp32 queries, keys and values `[M, (Hq + 2 Hkv) * D]`, and the hidden layer twice; in
        bf16 what attention makes of the former `[M, Hq * D]` and the activation of the latter; and
        rounded tokens."""
        self.projected_bytes = (heads + 2 * keys) * torch.float32.itemsize
        self._mixed_bytes = heads * torch.bfloat16.itemsize

    def gathering(self, others: "RowPlaces", numbers: int, num_rows: int) -> list[Call]:
        """What takes some rows elsewhere, as attention leaves them.

        Args:
            numbers: The address of theirs, `[num_rows]` in 64 bits.
        """
        from martlet.models.compiled.gather import gather_rows

        row_bytes = self.rows.shape[1] * self.rows.itemsize
        tables = ((self.x, others.x, row_bytes), (self.mixed, others.mixed, self._mixed_bytes))
        return [
            Call(gather_rows().address, (numbers, source, target, num_rows, num_bytes), waits)
            for waits, (source, target, num_bytes) in zip((True, False), tables, strict=True)
        ]


class Pool(Protocol):
    """Where a layer's keys and values go."""

    blocks: Tensor
    scales: Tensor
    """As `number_block` says."""

    @property
    def is_rounded(self) -> bool: ...


Adapt = Callable[[str, tuple[int, int], tuple[int, int], tuple[int, int], torch.dtype], list[Call]]
"""What follows on a linear layer: of its name, where its rows and its results are, how many bytes
apart those are, the numbers of inputs and outputs, and the type of the results."""
LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The names that a layer calls its linear layers by."""
_BYTES, _WIDE_BYTES = torch.bfloat16.itemsize, torch.float32.itemsize


def _rows(num_rows: int, width: int) -> Tensor:
    return torch.empty(num_rows, width, dtype=torch.bfloat16)


def _scratch(num_rows: int, width: int) -> Tensor:
    return torch.empty(scratch_bytes(num_rows, width), dtype=torch.uint8)


@dataclass(frozen=True, kw_only=True)
class WrittenLayer:
    """The modules of a layer as they are before any adapter is put around them."""

    config: DecoderConfig
    input_norm: FusedRMSNorm
    projection: WrittenLinear
    """Of queries, keys and values together."""
    head_norms: tuple[FusedRMSNorm, ...]
    """Of queries and of keys, or none."""
    out_projection: WrittenLinear
    mlp_norm: FusedRMSNorm
    gate: WrittenLinear
    up: WrittenLinear
    down: WrittenLinear

    @classmethod
    def of(cls, layer: nn.Module, config: DecoderConfig) -> Self | None:
        """None for a layer that has a module which is no compiled function."""
        assert isinstance(layer, Layer)
        attention, mlp = layer.self_attn, layer.mlp
        query = attention.q_proj
        if not isinstance(query, LinearPart) or not isinstance(mlp, GatedMLP) or not mlp.is_silu:
            return None
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        head_norms = (attention.q_norm, attention.k_norm) if config.has_head_norms else ()
        linears = (query.joined.product, attention.o_proj, mlp.gate_proj, mlp.up_proj)
        linears = (*linears, mlp.down_proj)
        has_all = (
            isinstance(attention.rotation, FusedRotation)
            and all(isinstance(norm, FusedRMSNorm) for norm in (*norms, *head_norms))
            and all(isinstance(linear, WrittenLinear) for linear in linears)
        )
        if not has_all or not _is_compiled(config):
            return None
        projection, out_projection, gate, up, down = linears
        return cls(
            config=config,
            input_norm=norms[0],
            projection=projection,
            head_norms=head_norms,
            out_projection=out_projection,
            mlp_norm=norms[1],
            gate=gate,
            up=up,
            down=down,
        )

    def before_attention(
        self, places: RowPlaces, num_rows: int, pool: Pool, adapt: Adapt
    ) -> list[Call] | None:
        """From normed rows to queries, and keys and values in the pool.

        The first three arguments of the last call belong to the step: the addresses of cosines,
        sines and slots.

        Args:
            pool: The layer's.
        """
        from martlet.models.compiled.rotary import rotate_into_pool

        config, row_bytes = self.config, places.projected_bytes
        projected = self.projection.calls(places.normed, places.projected, num_rows, places.scratch)
        if projected is None:
            return None
        heads = (config.num_attention_heads, config.num_key_value_heads)
        widths = [num_heads * config.head_dim for num_heads in (*heads, heads[1])]
        queries = places.projected
        keys = queries + widths[0] * _WIDE_BYTES
        outs = (queries, keys, keys + widths[1] * _WIDE_BYTES)
        apart = (config.hidden_size * _BYTES, row_bytes)
        adapted = [
            adapt(name, (places.normed, out), apart, (config.hidden_size, width), torch.float32)
            for name, out, width in zip(LINEARS, outs, widths, strict=False)
        ]
        norms = [
            norm.call_for_heads(place, num_rows, num_heads, row_bytes)
            for norm, place, num_heads in zip(self.head_norms, outs, heads, strict=False)
        ]
        own = (queries, pool.blocks.data_ptr(), pool.scales.data_ptr(), num_rows)
        rotate = rotate_into_pool(is_rounded=pool.is_rounded)
        rotation = Call(rotate.address, (0, 0, 0, *own, *heads, config.head_dim, row_bytes))
        return [*projected, *together(adapted), *together([[norm] for norm in norms]), rotation]

    def after_attention(self, places: RowPlaces, num_rows: int, adapt: Adapt) -> list[Call] | None:
        """From what attention mixed to what the MLP adds."""
        config, scratch = self.config, places.scratch
        width, inner = config.hidden_size, config.intermediate_size
        heads = config.num_attention_heads * config.head_dim
        x, hidden, added = places.normed, places.hidden, places.added
        out = self.out_projection.calls(places.mixed, added, num_rows, scratch)
        activated = self._activated(places, num_rows, adapt)
        down = self.down.calls(hidden, added, num_rows, scratch)
        if out is None or activated is None or down is None:
            return None
        out_name, down_name = LINEARS[3], LINEARS[6]
        return [
            *out,
            *adapt(out_name, (places.mixed, added), *_apart(heads, width, torch.float32)),
            self.mlp_norm.call_after_adding(places.x, added, x, num_rows),
            *activated,
            *down,
            *adapt(down_name, (hidden, added), *_apart(inner, width, torch.float32)),
        ]

    def _activated(self, places: RowPlaces, num_rows: int, adapt: Adapt) -> list[Call] | None:
        """From normed rows to the hidden layer of the MLP."""
        from martlet.models.compiled.elementwise import silu_times

        config, scratch = self.config, places.scratch
        x, halves = places.normed, (places.gate, places.up)
        sizes = _apart(config.hidden_size, config.intermediate_size, torch.float32)
        adapted = together(
            adapt(name, (x, place), *sizes)
            for name, place in zip(LINEARS[4:6], halves, strict=True)
        )
        if not adapted and isinstance(self.gate, IntegerLinear | CompactLinear):
            gated = self.gate.gated_calls(self.up, x, places.hidden, num_rows, scratch)
            if gated is not None:
                return gated
        gate = self.gate.calls(x, places.gate, num_rows, scratch)
        up = self.up.calls(x, places.up, num_rows, scratch)
        if gate is None or up is None:
            return None
        size = (num_rows, config.intermediate_size)
        silu = Call(silu_times().address, (*halves, places.hidden, *size))
        return [*_beside(gate, up), *adapted, silu]


def _apart(
    num_inputs: int, num_outputs: int, out_dtype: torch.dtype
) -> tuple[tuple[int, int], tuple[int, int], torch.dtype]:
    """What `Adapt` takes of rows and results that are alone in their memory."""
    apart = num_inputs * _BYTES, num_outputs * out_dtype.itemsize
    return apart, (num_inputs, num_outputs), out_dtype


def _beside(calls: list[Call], others: list[Call]) -> list[Call]:
    """The calls of two layers of the same rows, rounded once if both round them alike."""
    if calls[:-1] == others[:-1]:
        return [*calls, others[-1]._replace(waits=False)]
    return [*calls, *others]


def together(parts: Iterable[Sequence[Call]]) -> list[Call]:
    """Calls of which none reads what another writes: only the first waits."""
    calls = [call for part in parts for call in part]
    return [call._replace(waits=index == 0) for index, call in enumerate(calls)]


def _is_compiled(config: DecoderConfig) -> bool:
    like = torch.empty(0, dtype=torch.bfloat16)
    return all(
        is_compiled_for(like, width) for width in (config.hidden_size, config.intermediate_size)
    )
