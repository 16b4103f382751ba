"""An adapter's folder, beside the base that it is to be served on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch

from martlet.doctor.finding import Finding
from martlet.doctor.mending import as_argument
from martlet.doctor.model import KnownModel
from martlet.errors import AdapterError, MartletError, NotFoundError
from martlet.export.skeleton import skeleton
from martlet.lora.base import BaseLeaves
from martlet.lora.config import CONFIG_NAME
from martlet.lora.folder import AdapterFolder, AdapterTensors, open_adapter
from martlet.lora.landing import check_landing
from martlet.lora.provenance import (
    TEMPLATE_NAME,
    Provenance,
    ServingIdentity,
    difference_in_serving,
    read_provenance,
)


@dataclass(frozen=True, kw_only=True)
class KnownAdapter:
    """An adapter whose files can be read."""

    name: str
    """As requests call it."""
    folder: AdapterFolder
    tensors: AdapterTensors

    @property
    def highest_rank(self) -> int:
        """A server must allow it."""
        config = self.folder.config
        return max(config.rank, *config.rank_pattern.values(), 0)

    @property
    def as_option(self) -> str:
        """The adapter as the command line takes it."""
        return f"--adapter {self.name}={quote(str(self.folder.path))}"


class AdapterExamination:
    """Looks at one adapter, and keeps what servers are compared with.

    Args:
        name: As requests call it.
        path: Its folder.
        model: What it is to be served on; None compares it with nothing.
    """

    adapter: KnownAdapter | None = None
    """None until it was found sound: whether a server has it matters then."""

    def __init__(self, name: str, path: str, model: KnownModel | None) -> None:
        self._name = name
        self._path = path
        self._subject = f"adapter {name}"
        self._model = model

    def findings(self) -> Iterator[Finding]:
        """Every finding: what rests on a fault is left out."""
        try:
            folder = open_adapter(self._path)
            provenance = read_provenance(folder.path)
            adapter = KnownAdapter(name=self._name, folder=folder, tensors=folder.load())
        except MartletError as error:
            yield Finding.fault(self._subject, error, remedy=_remedy_of_folder(self._path, error))
            return
        fault = self._idleness(adapter) or self._misfit(adapter, provenance)
        yield fault or Finding.ok(self._subject, _described(adapter, provenance, self._model))
        if fault is None:
            self.adapter = adapter
            yield from self._doubts(adapter, provenance)

    def _idleness(self, adapter: KnownAdapter) -> Finding | None:
        if _changes_something(adapter.tensors):
            return None
        error = AdapterError(f"{self._path} changes nothing: its matrices are untrained")
        return Finding.fault(
            self._subject, error, remedy="martlet train DATA --model BASE --out NEW"
        )

    def _misfit(self, adapter: KnownAdapter, provenance: Provenance | None) -> Finding | None:
        model = self._model
        if model is None:
            return None
        serving = ServingIdentity(
            model=model.name,
            model_hash=model.folder.model_hash,
            template_hash=model.tokenizer.template_hash,
        )
        try:
            if provenance is not None:
                provenance.check(adapter.folder.path, serving)
            _check_shapes(adapter, model)
        except MartletError as error:
            remedy = _remedy_of_misfit(adapter, model, serving, provenance)
            return Finding.fault(self._subject, error, remedy=remedy)
        return None

    def _doubts(self, adapter: KnownAdapter, provenance: Provenance | None) -> Iterator[Finding]:
        path = adapter.folder.path
        if provenance is not None and (said := difference_in_serving(path, provenance)):
            merge = f"martlet merge {quote(str(path))} --out MERGED"
            yield Finding.warning(self._subject, said, remedy=merge)
        if provenance is None and self._model is not None:
            yield from self._doubt_of_base(adapter, self._model)

    def _doubt_of_base(self, adapter: KnownAdapter, model: KnownModel) -> Iterator[Finding]:
        named = adapter.folder.config.base_model
        if _last_part(named) not in (_last_part(model.name), _last_part(str(model.folder.path))):
            yield Finding.warning(
                self._subject,
                f"its shapes fit {model.name}, and it names {named} as its base: whether they are "
                "the same model, its files do not tell",
                remedy=f"martlet doctor {as_argument(named, None)} {adapter.as_option}",
            )


def _check_shapes(adapter: KnownAdapter, model: KnownModel) -> None:
    """Lays the tensors on the base's modules, which have names and shapes and no values.

    Raises:
        AdapterError: If one does not fit.
        ModelError: If the base cannot be built.
    """
    base = BaseLeaves.of(skeleton(model.folder), {})
    with torch.inference_mode():
        check_landing(adapter.folder, adapter.tensors, base)


def _changes_something(tensors: AdapterTensors) -> bool:
    """Whether a second matrix, which training begins at zero, has moved, or another tensor came."""
    firsts = ("lora_A.weight", "lora_embedding_A")
    others = (
        tensor
        for parts in tensors.by_module.values()
        for part, tensor in parts.items()
        if part not in firsts
    )
    return any(bool(tensor.any()) for tensor in others)


def _remedy_of_misfit(
    adapter: KnownAdapter,
    model: KnownModel,
    serving: ServingIdentity,
    provenance: Provenance | None,
) -> str:
    base = adapter.folder.config.base_model if provenance is None else provenance.base
    if provenance is None or provenance.base_hash != serving.model_hash:
        return f"martlet serve {as_argument(base, provenance)} {adapter.as_option}"
    template = adapter.folder.path / TEMPLATE_NAME
    if provenance.template_hash != serving.template_hash:
        return (
            f"martlet serve {quote(model.name)} {adapter.as_option} "
            f"--chat-template {quote(str(template))}"
        )
    return f"martlet check DATA --model {quote(base)}"


def _remedy_of_folder(path: str, error: MartletError) -> str:
    if isinstance(error, NotFoundError):
        return "find . -name adapter_config.json"
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file() and not (folder / CONFIG_NAME).is_file():
        return f"martlet doctor {quote(path)}"
    return f"hf download ORG/NAME --local-dir {quote(path)} --force-download"


def _described(
    adapter: KnownAdapter, provenance: Provenance | None, model: KnownModel | None
) -> str:
    tensors = f"{adapter.tensors.num_tensors} tensors, rank {adapter.highest_rank}"
    if model is None:
        return f"{tensors}, made for {adapter.folder.config.base_model}"
    if provenance is None:
        return f"{tensors}, all land on {model.name}; no martlet.json says where it comes from"
    proven = "proven" if provenance.proof is not None else "without a proof"
    return f"{tensors}, all land on {model.name}, the base and template of its training; {proven}"


def _last_part(name: str) -> str:
    return Path(name.partition("@")[0]).name
