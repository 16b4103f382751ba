"""Runs the app under uvicorn: its socket, its signals, its end."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from martlet.errors import InputError, ParameterError
from martlet.serve.service import Service

logger = logging.getLogger("martlet.serve")

_CLOSE_S = 5
"""Once all replies are finished or given up, connections get this long to be closed in order."""
_KEEP_ALIVE_S = 75
"""Longer than the pools of usual clients keep a connection, so that none is closed under a
request."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and how.

    Raises:
        ParameterError: On construction, if the port is none, or a key has no certificate.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ParameterError(f"a port is from 0 to 65535, not {self.port}")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ParameterError("--ssl-keyfile needs --ssl-certfile")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def bind(address: Address) -> socket.socket:
    """Takes the port, before anything is loaded; nobody can connect yet.

    Raises:
        InputError: If the port is taken or may not be used, the host is not this machine's, or the
            certificate cannot be read.
    """
    _check_certificate(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise _cannot_listen(address, error) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address, error) from error
    return listener


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
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and tells that it is done."""
        try:
            await super().startup(sockets)
        except OSError as error:  # another process listens on the port since it was bound
            raise _cannot_listen(self._address, error) from error
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


def _check_certificate(address: Address) -> None:
    if address.ssl_certfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            address.ssl_certfile, address.ssl_keyfile
        )
    except OSError as error:  # SSLError is one
        raise InputError(
            f"the certificate in {address.ssl_certfile} cannot be used: {error}; it and "
            "--ssl-keyfile are PEM files"
        ) from error


def _cannot_listen(address: Address, error: OSError) -> InputError:
    place = f"{address.host}:{address.port}"
    if error.errno == errno.EADDRINUSE:
        return InputError(f"{place} is taken by another program; stop it, or give another --port")
    if error.errno == errno.EACCES:
        return InputError(f"{place} may not be used; ports below 1024 need the right to it")
    return InputError(f"cannot listen on {place}: {error.strerror or error}")
