"""What the adapted layers share: whose rows the model is computing right now."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from martlet.lora.revision import AdapterRevision
from martlet.lora.rows import MIN_RUN_ROWS, RowMap, Segment, map_rows


@dataclass(kw_only=True)
class AdapterStep:
    """The one object that all adapted layers of a model look at.

    Outside of a step it says that every row is the base's.
    """

    tokens: RowMap = field(default_factory=RowMap)
    """Rows of most layers: the packed tokens."""
    logits: RowMap = field(default_factory=RowMap)
    """Rows of the LM head and the last MLP: those whose logits are wanted."""
    stack: tuple[AdapterRevision, ...] = ()
    """Adapters whose matrices the layers hold stacked, kept from step to step."""
    on_forget: list[Callable[[AdapterRevision], None]] = field(default_factory=list)
    """Called with revisions that nobody uses any more, by whoever keeps something made of them."""

    @contextmanager
    def running(
        self,
        tokens: Sequence[Segment],
        logits: Sequence[Segment],
        device: torch.device,
        *,
        is_probe: bool = False,
    ) -> Iterator[None]:
        """Tells the layers whose rows they compute, for as long as the context lasts.

        Args:
            tokens: The packed tokens, in order.
            logits: The rows that meet the LM head, in order.
            device: The model's.
            is_probe: Whether to mix no rows, so that the stack of the running requests stays.
        """
        if all(adapter is None for _, adapter in tokens):
            yield
            return
        min_run_rows = 1 if is_probe else MIN_RUN_ROWS
        self.tokens = map_rows(tokens, self.stack, device, min_run_rows=min_run_rows)
        self.logits = map_rows(logits, self.tokens.stack, device, min_run_rows=min_run_rows)
        self.stack = self.tokens.stack
        try:
            yield
        finally:
            self.tokens = self.logits = RowMap()

    def forget(self, revision: AdapterRevision) -> None:
        """Lets go of a revision that nobody uses any more."""
        if revision in self.stack:
            self.stack = ()
        for forget in self.on_forget:
            forget(revision)
