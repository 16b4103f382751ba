"""Layers that compute the rows of many adapters, and of none, in one go.

They stand in the model in place of the leaves that some adapter touches, and keep the leaf as
`base`. In a step without adapters they cost one look at an empty list.

Shapes: T rows, in and out features, R the ranks of all stacked adapters added up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from martlet.errors import AdapterError
from martlet.lora.revision import AdapterRevision, Delta
from martlet.lora.rows import Part, RowMap
from martlet.lora.step import AdapterStep
from martlet.models.linear.compiled_low_rank import CompiledLowRank
from martlet.models.linear.grouped_low_rank import GroupedLowRank, groups_pay
from martlet.models.linear.low_rank import LowRank


class AdaptedLeaf(nn.Module):
    """A leaf that looks rows up in the step: norms, and whatever else has weights of its own.

    Args:
        base: The leaf, which is not changed.
        name: Its name in the model.
        step: Tells whose rows are being computed; shared by all layers of a model.
        sees_logits: Whether it sees the rows whose logits are wanted, instead of all tokens.
    """

    def __init__(self, base: nn.Module, *, name: str, step: AdapterStep, sees_logits: bool) -> None:
        super().__init__()
        self.base = base
        self._name = name
        self._step = step
        self._sees_logits = sees_logits

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        # Model code reads a leaf's weight, features or padding index.
        try:
            return super().__getattr__(name)
        except AttributeError:
            found: Tensor | nn.Module = getattr(super().__getattr__("base"), name)
            return found

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the leaf computes of `[1, T, ...]` or `[T, in]`."""
        out: Tensor = self.base(x)
        row_map = self._step.logits if self._sees_logits else self._step.tokens
        return self._adapt(x, out, row_map) if row_map.parts else out

    def forget(self, revision: AdapterRevision) -> None:
        """Lets go of what is kept for a revision that nobody uses any more."""

    def _adapt(self, x: Tensor, out: Tensor, row_map: RowMap) -> Tensor:
        """What the adapters make of the leaf's output, which may be overwritten."""
        by_row, out_by_row = self._by_row(x, row_map), self._by_row(out, row_map)
        for part in row_map.parts:
            for adapter, rows in part.each():
                delta = adapter.deltas.get(self._name)
                if delta is not None and delta.replacement is not None:
                    out_by_row[rows] = delta.replacement(by_row[rows]).to(out.dtype)
        return out

    def _by_row(self, x: Tensor, row_map: RowMap) -> Tensor:
        """A view of `x` with the step's rows as its first axis."""
        is_packed = isinstance(x, Tensor) and x.dim() > 2 and x.shape[0] == 1
        rows = x[0] if is_packed else x
        self._check(rows, row_map)
        return rows

    def _check(self, rows: Tensor, row_map: RowMap) -> None:
        if not isinstance(rows, Tensor) or rows.shape[:1] != (row_map.num_rows,):
            raise AdapterError(
                f"{self._name} does not see the tokens one by one, so the rows of an adapter "
                "cannot be told apart in it; serve a merged model instead"
            )


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """The matrices of several adapters in one leaf, one below the other."""

    adapters: tuple[AdapterRevision, ...]
    ranks: tuple[int, ...]
    product: CompiledLowRank | GroupedLowRank | LowRank | None
    """None if no adapter has a low-rank part here."""


_NO_STACK = _Stack(adapters=(), ranks=(), product=None)


class AdaptedLinear(AdaptedLeaf):
    """A linear layer of any kind, packed or quantised: only its output is added to."""

    _stack = _NO_STACK

    def forget(self, revision: AdapterRevision) -> None:
        """Lets go of a stack that a revision is in."""
        if revision in self._stack.adapters:
            self._stack = _NO_STACK

    def _adapt(self, x: Tensor, out: Tensor, row_map: RowMap) -> Tensor:
        shape = out.shape
        x, out = x.reshape(-1, x.shape[-1]), out.view(-1, shape[-1])
        self._check(x, row_map)
        for part in row_map.parts:
            self._adjust(x, out, part)
        deltas = self._deltas(row_map)
        if any(delta.panels is not None for delta in deltas):
            self._add_grouped(x, out, row_map.whole)
            return out.view(shape)
        if all(delta.down is None for delta in deltas):
            return out.view(shape)
        out = out.to(x.dtype)  # In which the matrices are.
        for part in row_map.parts:
            out = self._add_rank(x, out, part)
        return out.view(shape)

    def _adjust(self, x: Tensor, out: Tensor, part: Part) -> None:
        """Does to `out` `[T, out]` what is no low-rank part, in place."""
        if not self._has_more_than_rank(part):
            return
        for adapter, rows in part.each():
            delta = adapter.deltas.get(self._name)
            if delta is not None and not delta.only_adds_rank:
                out[rows] = self._adjusted(x[rows], out[rows], delta).to(out.dtype)

    def _deltas(self, row_map: RowMap) -> list[Delta]:
        """What the adapters of all rows do here."""
        adapters = (adapter for part in row_map.parts for adapter in part.adapters)
        deltas = (adapter.deltas.get(self._name) for adapter in adapters)
        return [delta for delta in deltas if delta is not None]

    def _add_rank(self, x: Tensor, out: Tensor, part: Part) -> Tensor:
        """`out` `[T, out]` with the low-rank parts added; it may be overwritten."""
        if part.slots is None:
            delta = part.adapters[0].deltas.get(self._name)
            if delta is not None and delta.down is not None and delta.up is not None:
                out[part.rows].addmm_(F.linear(x[part.rows], delta.down), delta.up)
            return out
        stack = self._stacked(part.adapters)
        if isinstance(stack.product, LowRank):
            return _add_masked(x, out, part, stack.product, stack.ranks)
        self._add_grouped(x, out, part)
        return out

    def _add_grouped(self, x: Tensor, out: Tensor, part: Part) -> None:
        """Adds the low-rank parts to `out` `[T, out]`, in place."""
        product = self._stacked(part.adapters).product
        if product is None:
            return
        assert not isinstance(product, LowRank)
        assert part.sorted_rows is not None
        assert part.ends is not None
        product.add_(out, x, part.sorted_rows, part.ends)

    def _has_more_than_rank(self, part: Part) -> bool:
        deltas = (adapter.deltas.get(self._name) for adapter in part.adapters)
        return any(delta is not None and not delta.only_adds_rank for delta in deltas)

    def _adjusted(self, x: Tensor, out: Tensor, delta: Delta) -> Tensor:
        """The output of one adapter's rows without its low-rank part."""
        if delta.replacement is not None:
            replaced: Tensor = delta.replacement(x)
            return replaced
        if delta.gain is not None:
            bias = self.base.bias
            product = out - bias if isinstance(bias, Tensor) else out
            out = out + delta.gain * product
        return out if delta.shift is None else out + delta.shift

    def _stacked(self, adapters: tuple[AdapterRevision, ...]) -> _Stack:
        if self._stack.adapters != adapters:
            self._stack = _Stack(
                adapters=adapters,
                ranks=tuple(adapter.rank_in(self._name) for adapter in adapters),
                product=_product([adapter.deltas.get(self._name) for adapter in adapters]),
            )
        return self._stack


def _product(
    deltas: Sequence[Delta | None],
) -> CompiledLowRank | GroupedLowRank | LowRank | None:
    """What multiplies by the low-rank parts of several adapters, if there are any."""
    panels = [None if delta is None else delta.panels for delta in deltas]
    if any(each is not None for each in panels):
        return CompiledLowRank(panels)
    pairs = [
        None if delta is None or delta.down is None or delta.up is None else (delta.down, delta.up)
        for delta in deltas
    ]
    present = [pair for pair in pairs if pair is not None]
    if not present:
        return None
    if groups_pay(*present[0]):
        return GroupedLowRank(pairs)
    downs, ups = zip(*present, strict=True)
    return LowRank(torch.cat(downs), torch.cat(ups))


def _add_masked(
    x: Tensor, out: Tensor, part: Part, product: LowRank, own_ranks: tuple[int, ...]
) -> Tensor:
    """`out` `[T, out]` with what each row's own adapter adds; it may be overwritten."""
    ranks = product.ranks(x[part.rows])  # [rows, R]
    ranks *= part.mask(own_ranks, ranks.dtype)
    added = product.add(out[part.rows], ranks)
    if len(added) == len(out):
        return added
    out[part.rows] = added
    return out


class AdaptedEmbedding(AdaptedLeaf):
    """A token embedding; its low-rank part looks rows of `down` up."""

    def _adapt(self, x: Tensor, out: Tensor, row_map: RowMap) -> Tensor:
        token_ids, vectors = x.reshape(-1), out.view(-1, out.shape[-1])
        self._check(token_ids, row_map)
        for part in row_map.parts:
            for adapter, rows in part.each():
                delta = adapter.deltas.get(self._name)
                if delta is not None:
                    vectors[rows] = _embedded(token_ids[rows], vectors[rows], delta)
        return out


def _embedded(token_ids: Tensor, vectors: Tensor, delta: Delta) -> Tensor:
    """`[T]` token ids and the base's vectors `[T, out]` -> the adapter's vectors."""
    if delta.replacement is not None:
        replaced: Tensor = delta.replacement(token_ids)
        return replaced
    if delta.gain is not None:
        vectors = vectors + delta.gain * vectors
    if delta.down is not None and delta.up is not None:
        vectors = vectors + F.embedding(token_ids, delta.down) @ delta.up
    return vectors
