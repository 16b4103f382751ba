"""Which models a server answers for: the base under its names, and adapters by theirs."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from martlet.backends.base import Backend, ModelIdentity
from martlet.backends.native import NativeBackend
from martlet.errors import InputError, NotFoundError
from martlet.lora.store import AdapterInfo, AdapterStore


def adapters_of(backend: Backend) -> AdapterStore:
    """The adapters of a backend.

    Raises:
        InputError: If it takes none.
    """
    if not isinstance(backend, NativeBackend):
        raise InputError(
            f"the {backend.identity.backend} backend takes no adapters; serve a model that the "
            "native one runs"
        )
    return backend.adapters


def list_adapters(backend: Backend) -> Sequence[AdapterInfo]:
    """The adapters of a backend; none for one that takes none."""
    return backend.adapters.list() if isinstance(backend, NativeBackend) else ()


def probe_base(backend: Backend) -> None:
    """Computes what adapters are compared with, before anybody waits for tokens."""
    if isinstance(backend, NativeBackend):
        backend.adapters.probe_base()


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
