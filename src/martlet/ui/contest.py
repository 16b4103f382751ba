"""Replies side by side, of which one is the better: what preference rows are made of."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Replies of several models to one prompt."""

    messages: Sequence[dict[str, str]] = ()
    models: Sequence[str] = ()
    texts: Sequence[str] = ()
    kept: Sequence[int] = ()
    """Ids of the rows that came of it."""

    def preferences(self, chosen: int) -> list[dict[str, object]]:
        """A training row for each other reply that says something else than the chosen one."""
        return [
            {
                "prompt": list(self.messages),
                "chosen": [{"role": "assistant", "content": self.texts[chosen]}],
                "rejected": [{"role": "assistant", "content": text}],
                "models": {"chosen": self.models[chosen], "rejected": model},
            }
            for model, text in zip(self.models, self.texts, strict=True)
            if text.strip() and text != self.texts[chosen]
        ]
