"""The server's app, its page, and what it says on stderr once it listens."""

import asyncio
import logging
import webbrowser
from socket import socket

import typer
from fastapi import FastAPI

from martlet.backends.native import NativeBackend
from martlet.cli.options.server import PageUse
from martlet.serve.address import Address
from martlet.serve.app import create_app
from martlet.serve.run import Server
from martlet.serve.service import Service


def listen(service: Service, address: Address, listener: socket, page: PageUse) -> None:
    """Serves until a signal.

    Args:
        listener: Bound to the address.
    """
    _log_to_stderr()
    host, port = listener.getsockname()[:2]
    url = _url(address, host, port)
    app = create_app(service)
    if page != "none":
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        _add_page(app, service, address, url=_url(address, reachable, port))

    def on_ready() -> None:
        _welcome(service, address, url)
        if page != "none":
            _welcome_to_page(url, opens=page == "opened")

    asyncio.run(Server(app, service, address, on_ready=on_ready).serve(sockets=[listener]))


def _url(address: Address, host: str, port: int) -> str:
    scheme = "http" if address.ssl_certfile is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _add_page(app: FastAPI, service: Service, address: Address, *, url: str) -> None:
    from martlet.ui.client import ServerUrl
    from martlet.ui.doctor import Doctor
    from martlet.ui.mount import PageSettings, mount_page

    backend = service.engine.backend
    doctor = Doctor(backend.identity.model, chat_template=backend.tokenizer.template)
    settings = PageSettings(
        server=ServerUrl(url=url, certfile=address.ssl_certfile),
        data_dir=service.settings.data_dir,
        max_file_bytes=service.settings.max_file_bytes,
        wants_key=bool(service.keys),
        doctor=None if service.settings.tuning_dir is None else doctor,
    )
    mount_page(app, settings)


def _welcome_to_page(url: str, *, opens: bool) -> None:
    typer.echo(f"the page is at {url}/ui", err=True)
    if opens:
        webbrowser.open(f"{url}/ui")


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("martlet").setLevel(logging.INFO)


def _welcome(service: Service, address: Address, url: str) -> None:
    backend, catalog = service.engine.backend, service.catalog
    facts = [catalog.identity.model, catalog.identity.backend, catalog.identity.dtype]
    facts.append(f"context {catalog.max_context_tokens:,} tokens")
    if isinstance(backend, NativeBackend):
        config = backend.engine.config
        facts.append(f"pool {config.num_blocks * config.block_size:,} tokens")
    typer.echo(f"serving {', '.join(filter(None, facts))}", err=True)
    if not (service.keys or address.is_loopback):
        typer.secho(
            "no API keys: everybody who reaches this machine may use and change this server; give "
            "--api-key-file",
            fg=typer.colors.RED,
            err=True,
        )
    key = " -H 'Authorization: Bearer KEY'" if service.keys else ""
    question = '"messages": [{"role": "user", "content": "Hello"}]'
    typer.echo(f"listening on {url}/v1 as {', '.join(catalog.names)}; try", err=True)
    typer.echo(
        f'  curl {url}/v1/chat/completions{key} -d \'{{"model": "{catalog.names[0]}", '
        f"{question}}}'",
        err=True,
    )
