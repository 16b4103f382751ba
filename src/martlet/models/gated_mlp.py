"""The gated MLP of most architectures with fewer copies of its widest tensors.

Its hidden layer is several times as wide as the model. Written out, `down(act(gate(x)) * up(x))`
makes four tensors of that width, each read from memory once more. Here there are two, changed in
place, and for a few hundred tokens at a time, so that they stay in the cache. Compiled products
leave one: they apply the gate before they write.

An MLP is replaced only by what was seen to compute the same on random input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.compiled.threads import is_compiled_for, run
from martlet.models.linear.compact import CompactLinear
from martlet.models.linear.int4 import Int4Linear
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.packed import PackedLinear
from martlet.models.linear.written import WrittenLinear

ROWS_AT_ONCE = 512
"""Tokens that go through together: enough for the products to be as fast as for more."""
_NUM_ROWS_TRIED = 4
_FAST = (CompactLinear, PackedLinear, IntegerLinear, Int8Linear, Int4Linear)


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))` (Shazeer, arXiv:2002.05202).

    The layers keep the names that they had, so that adapters find them.
    """

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.gate_proj = mlp.get_submodule("gate_proj")
        self.up_proj = mlp.get_submodule("up_proj")
        self.down_proj = mlp.get_submodule("down_proj")
        self.act_fn = mlp.get_submodule("act_fn")
        self.is_silu = _is_silu(self.act_fn)
        """Whether `act` is what compiled functions know."""
        self.wanted_rows: Tensor | None = None
        """`[N]`, the tokens that anyone will look at, and None for all; the output of the others
        is zero. In the last layer those are the tokens whose logits are wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """`[1, T, D] -> [1, T, D]`, and other shapes with the width last."""
        if self.wanted_rows is None:
            return self._in_parts(x)
        wanted = self._in_parts(x[:, self.wanted_rows])
        out = torch.zeros_like(x, dtype=wanted.dtype)
        out[:, self.wanted_rows] = wanted
        return out

    def _in_parts(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1] <= ROWS_AT_ONCE or not self.is_packed:
            return self._compute(x)
        return torch.cat([self._compute(rows) for rows in x.split(ROWS_AT_ONCE, dim=1)], dim=1)

    @property
    def is_packed(self) -> bool:
        """Whether its layers are the fast ones, with no adapter around them: such a layer needs to
        see all rows of a step at once."""
        layers = (self.gate_proj, self.up_proj, self.down_proj)
        return all(isinstance(layer, _FAST) for layer in layers)

    def _compute(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self._hidden(x))
        return out

    def _hidden(self, x: Tensor) -> Tensor:
        """`act(gate(x)) * up(x)`."""
        gate, up = self.gate_proj, self.up_proj
        if isinstance(gate, IntegerLinear) and isinstance(up, IntegerLinear):
            if gate.is_like(up) and not gate.is_few(x):
                tokens = gate.rounded(x)
                if self._gates_in_product(x, gate):
                    return gate.gated(up, tokens)
                return self._activated(gate.multiply(tokens), up.multiply(tokens), x)
        elif isinstance(gate, CompactLinear) and isinstance(up, CompactLinear):
            is_few = gate.is_few(x.numel() // x.shape[-1])
            if self.is_silu and gate.is_like(up) and not is_few:
                return gate.gated(up, x)
        elif isinstance(gate, Int8Linear) and isinstance(up, Int8Linear):
            rows = gate.rounded(x)
            return self._activated(gate.multiply(rows), up.multiply(rows), x)
        return self._activated(gate(x), up(x), x)

    def widen(self) -> None:
        """Has the layers of the hidden one write fp32: it is rounded once, when it is activated."""
        for layer in (self.gate_proj, self.up_proj):
            if isinstance(layer, WrittenLinear):
                layer.out_dtype = torch.float32

    def compile_for(self, dtype: torch.dtype) -> None:
        """Compiles a product with the gate, if tokens of a type will have it, before they come."""
        gate, x = self.gate_proj, torch.empty(0, dtype=dtype)
        if not isinstance(gate, IntegerLinear) or not gate.is_like(self.up_proj):
            return
        if self._gates_in_product(x, gate):
            gate.compiled_for(dtype).gated()

    def _gates_in_product(self, x: Tensor, gate: IntegerLinear) -> bool:
        return self.is_silu and is_compiled_for(x, gate.out_features)

    def _activated(self, hidden: Tensor, up: Tensor, x: Tensor) -> Tensor:
        """`act(hidden) * up`, of the dtype of `x`; they may be overwritten."""
        if not self.is_silu:
            activated: Tensor = self.act_fn(hidden)
            return (activated * up).to(x.dtype)
        if not is_compiled_for(x, hidden.shape[-1]):
            return F.silu(hidden, inplace=True).mul(up).to(x.dtype)
        from martlet.models.compiled.elementwise import ROWS_AT_ONCE, silu_times

        hidden, up = (each.float().contiguous() for each in (hidden, up))
        out = torch.empty_like(hidden, dtype=x.dtype)
        width = hidden.shape[-1]
        num_rows = hidden.numel() // width
        arguments = (hidden.data_ptr(), up.data_ptr(), out.data_ptr(), num_rows, width)
        run(silu_times(), arguments, alone=num_rows <= ROWS_AT_ONCE)
        return out


def fuse_mlp(module: nn.Module, dtype: torch.dtype) -> GatedMLP | None:
    """A fused MLP that computes what `module` does, or None if none was found.

    Args:
        module: Any; its layers were replaced by fast ones if they could be.
        dtype: Of its input.
    """
    names = {name for name, _ in module.named_children()}
    if names != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    candidate = GatedMLP(module)
    if not candidate.is_packed or not _compute_the_same(module, candidate, dtype):
        return None
    candidate.widen()
    return candidate


def _is_silu(activation: nn.Module) -> bool:
    x = torch.linspace(-8, 8, 33)
    return torch.equal(activation(x), F.silu(x))


@torch.inference_mode()
def _compute_the_same(module: nn.Module, candidate: GatedMLP, dtype: torch.dtype) -> bool:
    width = module.get_submodule("gate_proj").in_features
    assert isinstance(width, int)
    generator = torch.Generator(device="cpu").manual_seed(0)
    x = torch.randn(1, _NUM_ROWS_TRIED, width, generator=generator).to(dtype)
    expected, got = module(x).float(), candidate(x).float()
    tolerance = 4 * torch.finfo(dtype).eps
    return bool((got - expected).norm() <= tolerance * expected.norm())
