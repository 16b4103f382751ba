"""The base of adapters: the leaves of a model, as they were before any adapter."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from martlet.models.causal_lm import CausalLM


@dataclass(frozen=True, kw_only=True)
class BaseLeaves:
    """What adapters are checked against and put around. Nothing here changes."""

    leaves: Mapping[str, nn.Module]
    """By the names that PEFT knows them by."""
    own_norms: Mapping[str, nn.Module]
    """Norms as transformers wrote them, where faster ones took their places."""
    embedding: str
    """The name of the token embedding."""
    head: str
    """The name of the LM head."""
    logit_leaves: frozenset[str]
    """Names of the leaves that see only the rows whose logits are wanted: the head is one."""
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(
        cls,
        model: CausalLM,
        own_norms: Mapping[str, nn.Module],
        last_mlp: nn.Module | None = None,
    ) -> "BaseLeaves":
        """The leaves of a loaded model that no adapter has touched.

        Args:
            own_norms: See the attribute.
            last_mlp: Computes only the rows whose logits are wanted.
        """
        leaves = {
            name: module for name, module in model.named_modules() if not any(module.children())
        }
        names = {id(module): name for name, module in leaves.items()}
        head = names.get(id(model.get_output_embeddings()), "")
        last = () if last_mlp is None else last_mlp.children()
        return cls(
            leaves=leaves,
            own_norms=own_norms,
            embedding=names.get(id(model.get_input_embeddings()), ""),
            head=head,
            logit_leaves=frozenset((head, *(names[id(leaf)] for leaf in last))),
            dtype=model.dtype,
            device=model.device,
        )
