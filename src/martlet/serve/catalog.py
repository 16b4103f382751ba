"""Which models a server answers for: the base under its names, and adapters by theirs."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from martlet.backends.base import Backend, ModelIdentity
from martlet.errors import InputError, NotFoundError


class AdapterInfo(Protocol):
    """What is known of an adapter."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def revision(self) -> int | str: ...
    @property
    def num_tensors(self) -> int: ...
    @property
    def num_tensors_expected(self) -> int: ...
    @property
    def probe_kl(self) -> float: ...
    @property
    def is_pinned(self) -> bool: ...
    @property
    def is_loaded(self) -> bool: ...
    @property
    def num_requests(self) -> int: ...


class AdapterStore(Protocol):
    """The adapters of a backend. Only `prepare` may be called outside the engine's thread."""

    def prepare(self, name: str, path: Path) -> object:
        """Reads an adapter and checks that it fits the base."""
        ...

    def install(self, prepared: object) -> AdapterInfo:
        """Puts what `prepare` read to use; a name that exists gets a new revision."""
        ...

    def drop(self, name: str) -> None:
        """Forgets an adapter; requests that began with it finish with it."""
        ...

    def pin(self, name: str, is_pinned: bool) -> None:
        """Keeps an adapter in memory, or lets go of it when room is needed."""
        ...

    def list(self) -> Sequence[AdapterInfo]: ...


def adapters_of(backend: Backend) -> AdapterStore:
    """The adapters of a backend.

    Raises:
        InputError: If it takes none.
    """
    store: AdapterStore | None = getattr(backend, "adapters", None)
    if store is None:
        raise InputError(
            f"the {backend.identity.backend} backend takes no adapters; serve a model that the "
            "native one runs"
        )
    return store


def list_adapters(backend: Backend) -> Sequence[AdapterInfo]:
    """The adapters of a backend; none for one that takes none."""
    store: AdapterStore | None = getattr(backend, "adapters", None)
    return () if store is None else store.list()


@dataclass(kw_only=True)
class Catalog:
    """Names that the field `model` of a request may say.

    Read and written on the event loop; what the engine knows of adapters is mirrored here after
    each change, so that naming a model waits for no step.
    """

    identity: ModelIdentity
    base_names: tuple[str, ...]
    """The first is the one that is listed."""
    max_context_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970 when the server began to answer for its models."""
    adapters: dict[str, AdapterInfo] = field(default_factory=dict)

    def mirror(self, adapters: Iterable[AdapterInfo]) -> None:
        """Takes over what the engine says of its adapters."""
        self.adapters = {adapter.name: adapter for adapter in adapters}

    @property
    def names(self) -> tuple[str, ...]:
        """The base's listed name, then the adapters'."""
        return (self.base_names[0], *self.adapters)

    def knows(self, model: str) -> bool:
        """Whether something has that name."""
        return model in self.adapters or model in self.base_names

    def resolve(self, model: str) -> str | None:
        """The adapter that a model's name stands for; None for the base.

        Raises:
            NotFoundError: If nothing has that name.
        """
        if model in self.adapters:
            return model
        if model in self.base_names:
            return None
        raise NotFoundError(
            f"there is no model {model!r} here; this server answers for {', '.join(self.names)}"
        )
