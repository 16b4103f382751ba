"""Where a server listens. Taken before anything is loaded, so that a taken port costs no time."""

import errno
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import InputError, ParameterError


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
        raise cannot_listen(address, error) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise cannot_listen(address, error) from error
    return listener


def cannot_listen(address: Address, error: OSError) -> InputError:
    """Why an address cannot be listened on, in words."""
    place = f"{address.host}:{address.port}"
    if error.errno == errno.EADDRINUSE:
        return InputError(f"{place} is taken by another program; stop it, or give another --port")
    if error.errno == errno.EACCES:
        return InputError(f"{place} may not be used; ports below 1024 need the right to it")
    return InputError(f"cannot listen on {place}: {error.strerror or error}")


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
