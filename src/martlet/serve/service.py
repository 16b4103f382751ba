"""What every route needs, in one place, and how a route gets at it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from martlet.backends.base import Backend
from martlet.serve.catalog import Catalog, list_adapters
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
