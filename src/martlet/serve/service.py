"""What every route needs, in one place, and how a route gets at it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from martlet.backends.base import Backend
from martlet.serve.catalog import Catalog, adapters_of, list_adapters
from martlet.serve.engine_thread import EngineThread
from martlet.serve.keys import ApiKeys, Scope
from martlet.serve.meters import Meters
from martlet.serve.renderer import Renderer
from martlet.serve.settings import ServeSettings


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of a running server."""

    engine: EngineThread
    renderer: Renderer
    catalog: Catalog
    meters: Meters
    keys: ApiKeys = field(default_factory=ApiKeys)
    settings: ServeSettings = field(default_factory=ServeSettings)

    @classmethod
    def around(
        cls,
        backend: Backend,
        *,
        base_names: tuple[str, ...],
        keys: ApiKeys | None = None,
        settings: ServeSettings | None = None,
    ) -> "Service":
        """Puts the parts together; nothing is started.

        Args:
            backend: What answers; from now on only the service calls it.
            base_names: What the field `model` may say for the base.
            keys: Who may ask; everybody unless given.
            settings: Limits and permissions.
        """
        settings = settings or ServeSettings()
        meters = Meters()
        return cls(
            engine=EngineThread(backend, max_num_queued=settings.max_num_queued, meters=meters),
            renderer=Renderer(backend),
            catalog=Catalog(
                identity=backend.identity,
                base_names=base_names,
                max_context_tokens=backend.limits.max_context_tokens,
            ),
            meters=meters,
            keys=keys or ApiKeys(),
            settings=settings,
        )

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Serves an adapter from now on, or a new revision of one, if it fits and acts.

        Raises:
            InputError: If the backend takes none.
            MartletError: As the store's `prepare` and `install`; what is served is as before.
        """
        store = adapters_of(self.engine.backend)
        # Read outside the engine's thread, so that nobody's tokens wait for a disk.
        prepared = await asyncio.to_thread(store.prepare, name, folder)
        await self.engine.call(lambda _backend: store.install(prepared))
        await self.refresh_adapters()

    async def refresh_adapters(self) -> None:
        """Takes over what the engine says of its adapters."""
        adapters = await self.engine.call(list_adapters)
        self.catalog.mirror(adapters)
        self.meters.note_adapters(sum(adapter.is_loaded for adapter in adapters))


def service_of(request: Request) -> Service:
    """The service of the app that a request came to."""
    return cast(Service, request.app.state.service)


ServiceDep = Annotated[Service, Depends(service_of)]
"""A route's parameter that gets the service."""


def needs(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets a request through if its key has a scope."""

    async def check(request: Request) -> None:
        service_of(request).keys.check(request.headers.get("authorization"), scope)

    return check
