"""Runs the app under uvicorn: its signals and its end."""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from martlet.serve.address import Address, cannot_listen
from martlet.serve.service import Service

logger = logging.getLogger("martlet.serve")

_CLOSE_S = 5
"""Once all replies are finished or given up, connections get this long to be closed in order."""
_KEEP_ALIVE_S = 75
"""Longer than the pools of usual clients keep a connection, so that none is closed under a
request."""


class Server(uvicorn.Server):
    """Drains on the first signal, and stops at once on the second.

    Args:
        app: Made by `create_app`.
        service: What the app serves.
        address: Where `listener` listens.
        on_ready: Called once requests are taken.
    """

    def __init__(
        self,
        app: FastAPI,
        service: Service,
        address: Address,
        *,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_CLOSE_S,
            ssl_certfile=address.ssl_certfile,
            ssl_keyfile=address.ssl_keyfile,
        )
        super().__init__(config)
        self._service = service
        self._address = address
        self._on_ready = on_ready
        self._is_asked_to_stop = False
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's. A second signal skips the app's own end, so the engine is stopped here."""
        self._loop = asyncio.get_running_loop()
        try:
            await super().serve(sockets)
        finally:
            await self._service.engine.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and tells that it is done."""
        try:
            await super().startup(sockets)
        except OSError as error:  # another process listens on the port since it was bound
            raise cannot_listen(self._address, error) from error
        if self.started:
            self._on_ready()

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """As uvicorn's; called for SIGINT and SIGTERM."""
        if self.started and not self._is_asked_to_stop:
            self._is_asked_to_stop = True
            self._loop.call_soon_threadsafe(self.begin_to_drain)
        else:
            self.should_exit = self.force_exit = True

    def begin_to_drain(self) -> None:
        """Refuses new requests and stops once those that run have finished, or their time is up."""
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        engine, limit_s = self._service.engine, self._service.settings.drain_s
        logger.warning(
            "stopping: %d samples are left, for at most %g s; a second signal stops at once",
            engine.num_unfinished,
            limit_s,
        )
        try:
            async with asyncio.timeout(limit_s):
                await engine.drain()
            logger.warning("stopping: every reply was finished")
        except TimeoutError:
            logger.warning("stopping: %d samples are given up", engine.num_unfinished)
            engine.give_up()
        self.should_exit = True
