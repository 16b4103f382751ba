"""The layers that stand in a model around the leaves that adapters touch."""

from collections.abc import Iterable, Sequence

from torch import nn

from martlet.lora.base import BaseLeaves
from martlet.lora.layer import AdaptedEmbedding, AdaptedLeaf, AdaptedLinear
from martlet.lora.revision import AdapterRevision
from martlet.lora.step import AdapterStep
from martlet.lora.weights import features
from martlet.models.load import LoadedModel


class AdaptedLayers:
    """Puts layers around leaves, and takes them out again.

    Args:
        model: Those that an earlier engine put into it are taken out.
        step: Tells whose rows are being computed.
    """

    def __init__(self, model: LoadedModel, step: AdapterStep) -> None:
        self._model = model.module
        self._step = step
        self._by_name: dict[str, AdaptedLeaf] = {}
        _take_out_layers(model.module)
        self.base = BaseLeaves.of(model.module, model.own_norms, model.last_mlp)

    def wrap(self, names: Iterable[str]) -> Sequence[str]:
        """Puts layers around leaves that have none yet, and returns the names of these."""
        fresh = [name for name in names if name not in self._by_name]
        for name in fresh:
            leaf = self.base.leaves[name]
            layer = _layer_class(leaf)(
                leaf, name=name, step=self._step, sees_logits=name in self.base.logit_leaves
            )
            _put(self._model, name, layer)
            self._by_name[name] = layer
        return fresh

    def unwrap(self, names: Iterable[str]) -> None:
        """Puts leaves back in the place of their layers."""
        for name in names:
            _put(self._model, name, self.base.leaves[name])
            del self._by_name[name]

    def forget(self, revision: AdapterRevision) -> None:
        """Lets go of what layers keep for a revision that nobody uses any more."""
        for layer in self._by_name.values():
            layer.forget(revision)


def _take_out_layers(model: nn.Module) -> None:
    layers = {name: each for name, each in model.named_modules() if isinstance(each, AdaptedLeaf)}
    for name, layer in layers.items():
        _put(model, name, layer.base)


def _layer_class(leaf: nn.Module) -> type[AdaptedLeaf]:
    if isinstance(leaf, nn.Embedding):
        return AdaptedEmbedding
    return AdaptedLeaf if features(leaf) is None else AdaptedLinear


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
