"""One revision of an adapter in memory: what it changes in each leaf of the base."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from martlet.models.linear.compiled_low_rank import RankPanels


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Delta:
    """What an adapter changes in one leaf; what is None stays as it is.

    For a linear layer with the base's output y and bias b, the adapted output is

        y + gain * (y - b) + (x @ down.T) @ up + shift

    so `gain` is DoRA's magnitude over the norm, less one (arXiv:2402.09353), and scaling and
    magnitude are in `up` already. An embedding looks `down` up instead.
    """

    down: Tensor | None = None
    """`[r, in]`; of an embedding `[num_embeddings, r]`."""
    up: Tensor | None = None
    """`[r, out]`."""
    panels: RankPanels | None = None
    """`down` and `up`, in their place, where a compiled function multiplies by them."""
    gain: Tensor | None = None
    """`[out]`."""
    shift: Tensor | None = None
    """`[out]`."""
    replacement: nn.Module | None = None
    """Takes the leaf's place (`modules_to_save`)."""

    @property
    def rank(self) -> int:
        """0 without a low-rank part."""
        if self.panels is not None:
            return self.panels.rank
        return 0 if self.up is None else self.up.shape[0]

    @property
    def only_adds_rank(self) -> bool:
        """Whether the low-rank product is all there is."""
        return self.gain is None and self.shift is None and self.replacement is None

    @property
    def factors(self) -> tuple[Tensor | None, Tensor | None]:
        """The numbers of `down` and of `up`, in whatever order they lie."""
        if self.panels is not None:
            return self.panels.down, self.panels.up
        return self.down, self.up

    @property
    def size_bytes(self) -> int:
        tensors = [*self.factors, self.gain, self.shift]
        if self.replacement is not None:
            tensors.extend(self.replacement.state_dict().values())
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterRevision:
    """An adapter as it was in its folder at one moment, ready for the layers.

    Two revisions are the same only if they are the same object: identity tells who holds what.
    """

    name: str
    path: Path
    revision: str
    """16 hexadecimal digits: a hash of config and weights."""
    ranks: tuple[int, ...]
    """The ranks that occur, ascending."""
    num_tensors: int
    """Tensors of the file that landed on a module: all of them."""
    num_tensors_expected: int
    """Tensors that the config asks for, and those besides that the file brought."""
    deltas: Mapping[str, Delta]
    """By the name of the leaf."""

    @property
    def namespace(self) -> str:
        """Names all that is computed with this revision: prefix blocks are shared within it."""
        return f"{self.name}@{self.revision}"

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return sum(delta.size_bytes for delta in self.deltas.values())

    def rank_in(self, leaf: str) -> int:
        """The rank of its low-rank part in a leaf; 0 if it has none there."""
        delta = self.deltas.get(leaf)
        return 0 if delta is None else delta.rank
