"""The app: routes, errors, limits and middleware around a service, in one place."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from martlet import __version__
from martlet.errors import MartletError
from martlet.serve.access import AccessLog
from martlet.serve.batches.batch_service import BatchService
from martlet.serve.batches.database import Database
from martlet.serve.catalog import probe_base
from martlet.serve.envelope import ENVELOPE_SCHEMA, envelope, envelope_of, headers_of
from martlet.serve.keys import Scope
from martlet.serve.openapi import openapi_of
from martlet.serve.routes import (
    adapters,
    batches,
    chat,
    completions,
    files,
    health,
    metrics,
    models,
    responses,
    tokens,
    tuning,
)
from martlet.serve.service import Service, needs
from martlet.serve.tuning.tuning_service import TuningService

logger = logging.getLogger(__name__)

ROUTERS: tuple[tuple[APIRouter, Scope | None], ...] = (
    (health.router, None),
    (metrics.router, "use"),
    (models.router, "use"),
    (tokens.router, "use"),
    (chat.router, "use"),
    (completions.router, "use"),
    (responses.router, "use"),
    (files.router, "use"),
    (batches.router, "use"),
    (adapters.router, "administer"),
    (tuning.router, "administer"),
)
"""Every group of routes, and the scope that a key needs for it."""

REFUSALS: dict[int | str, dict[str, object]] = {
    status: {
        "description": description,
        "content": {"application/json": {"schema": ENVELOPE_SCHEMA}},
    }
    for status, description in (
        ("4XX", "What was asked for cannot be done; the message says why, and what can."),
        ("5XX", "The server could not do it: it is stopping, or something failed."),
    )
}
"""What the server's own document says of errors."""


def create_app(service: Service) -> FastAPI:
    """Builds the ASGI app; its lifespan starts and stops the engine's thread.

    Args:
        service: The parts of the server; the engine's thread is not started yet.
    """

    database = Database(service.settings.data_dir)
    batch_service = BatchService(service, database)
    tuning_service: TuningService | None = None
    if (root := service.settings.tuning_dir) is not None:
        tuning_service = TuningService(service, root, database, batch_service.files)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        await service.engine.call(probe_base)
        await service.refresh_adapters()
        if tuning_service is not None:
            await tuning_service.start()
        await batch_service.start()
        yield
        if tuning_service is not None:
            await tuning_service.stop()
        await batch_service.stop()
        await database.close()
        await service.engine.stop()
        service.renderer.close()

    # The pages that FastAPI draws from the document load scripts from elsewhere.
    app = FastAPI(
        title="Martlet", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    app.state.batches = batch_service
    app.state.tuning = tuning_service
    for router, scope in ROUTERS:
        dependencies = [] if scope is None else [Depends(needs(scope))]
        app.include_router(router, dependencies=dependencies, responses=REFUSALS)
    _add_error_handlers(app)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(AccessLog, meters=service.meters)
    app.openapi = lambda: openapi_of(app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(MartletError)
    async def on_own(_request: Request, error: MartletError) -> JSONResponse:
        return JSONResponse(
            envelope_of(error), status_code=error.http_status, headers=headers_of(error)
        )

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        body = envelope(message, status=error.status_code)
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_parameter(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(map(str, first["loc"][1:]))
        message = f"{param}: {first['msg']}"
        return JSONResponse(envelope(message, status=400, param=param), status_code=400)

    @app.exception_handler(Exception)
    async def on_bug(_request: Request, error: Exception) -> JSONResponse:
        message = f"internal error: {type(error).__name__}; the server's log says more"
        return JSONResponse(envelope(message, status=500), status_code=500)
