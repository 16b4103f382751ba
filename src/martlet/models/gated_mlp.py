"""The gated MLP of most architectures with fewer copies of its widest tensors.

Its hidden layer is several times as wide as the model. Written out, `down(act(gate(x)) * up(x))`
makes four tensors of that width, each read from memory once more. Here there are two, changed in
place, and for a few hundred tokens at a time, so that they stay in the cache.

An MLP is replaced only by what was seen to compute the same on random input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.models.compiled.threads import is_compiled_for
from martlet.models.linear.int4 import Int4Linear
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.packed import PackedLinear
from martlet.models.linear.written import calls_of
from martlet.models.openmp import Call, run

ROWS_AT_ONCE = 512
"""Tokens that go through together: enough for the products to be as fast as for more."""
_NUM_ROWS_TRIED = 4
_FAST = (PackedLinear, IntegerLinear, Int8Linear, Int4Linear)


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
        self._is_silu = _is_silu(self.act_fn)
        self.wanted_rows: Tensor | None = None
        """`[N]`, the tokens that anyone will look at, and None for all; the output of the others
        is zero. In the last layer those are the tokens whose logits are wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """`[1, T, D] -> [1, T, D]`, and other shapes with the width last."""
        if self.wanted_rows is None:
            return self._in_parts(x)
        out = torch.zeros_like(x)
        out[:, self.wanted_rows] = self._in_parts(x[:, self.wanted_rows])
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

    def calls(
        self, x: int, out: int, num_rows: int, *, hidden: tuple[int, int], scratch: int
    ) -> list[Call] | None:
        """What computes the same of bf16 rows at one address, and writes it to another.

        Args:
            hidden: Two addresses, each with room for `num_rows` of the hidden layer.
            scratch: See `IntegerLinear.calls`.

        Returns:
            The calls in order, or None where there are none.
        """
        if not self._is_silu:
            return None
        gate_and_up = self._gate_and_up_calls(x, hidden, num_rows, scratch)
        down = calls_of(self.down_proj, hidden[0], out, num_rows, scratch)
        if gate_and_up is None or down is None:
            return None
        return [*gate_and_up, self._activation_call(*hidden, num_rows), *down]

    def _gate_and_up_calls(
        self, x: int, hidden: tuple[int, int], num_rows: int, scratch: int
    ) -> list[Call] | None:
        gate = calls_of(self.gate_proj, x, hidden[0], num_rows, scratch)
        up = calls_of(self.up_proj, x, hidden[1], num_rows, scratch)
        if gate is None or up is None:
            return None
        # Rounded for the gate, tokens are rounded for both.
        can_share = len(up) == 1 or self._shares_rounding
        return [*gate, up[-1]._replace(waits=False)] if can_share else [*gate, *up]

    @property
    def _shares_rounding(self) -> bool:
        gate, up = self.gate_proj, self.up_proj
        are_whole = isinstance(gate, IntegerLinear) and isinstance(up, IntegerLinear)
        return are_whole and gate.group_size == up.group_size

    def _activation_call(self, hidden: int, up: int, num_rows: int) -> Call:
        from martlet.models.compiled.elementwise import silu_times

        return Call(silu_times().address, (hidden, up, num_rows, self.down_proj.in_features))

    def _compute(self, x: Tensor) -> Tensor:
        hidden, up = self._gate_and_up(x)
        out: Tensor = self.down_proj(self._activated(hidden, up))
        return out

    def _activated(self, hidden: Tensor, up: Tensor) -> Tensor:
        """`act(hidden) * up`; both are overwritten."""
        if not self._is_silu:
            activated: Tensor = self.act_fn(hidden)
            return activated.mul_(up)
        if not is_compiled_for(hidden, hidden.shape[-1]):
            return F.silu(hidden, inplace=True).mul_(up)
        from martlet.models.compiled.elementwise import ROWS_AT_ONCE

        hidden, up = hidden.contiguous(), up.contiguous()
        num_rows = hidden.numel() // hidden.shape[-1]
        call = self._activation_call(hidden.data_ptr(), up.data_ptr(), num_rows)
        run(call, alone=num_rows <= ROWS_AT_ONCE)
        return hidden

    def _gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = self.gate_proj, self.up_proj
        if isinstance(gate, IntegerLinear) and isinstance(up, IntegerLinear):
            if self._shares_rounding and not gate.is_few(x):
                tokens = gate.rounded(x)
                return gate.multiply(tokens), up.multiply(tokens)
        elif isinstance(gate, Int8Linear) and isinstance(up, Int8Linear):
            rows = gate.rounded(x)
            return gate.multiply(rows), up.multiply(rows)
        return gate(x), up(x)


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
    if not candidate.is_packed:
        return None
    return candidate if _compute_the_same(module, candidate, dtype) else None


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
