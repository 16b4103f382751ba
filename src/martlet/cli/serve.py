"""`martlet serve`: answers behind OpenAI's API."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from martlet.backends.options import is_url
from martlet.cli.options.model import ModelArgument, named_adapters, named_model
from martlet.cli.options.option import option
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.verb import verb
from martlet.text.conversation import ContextPolicy

if TYPE_CHECKING:
    from socket import socket

    from fastapi import FastAPI

    from martlet.backends.base import Backend
    from martlet.serve.address import Address
    from martlet.serve.service import Service
    from martlet.serve.settings import ServeSettings

_MODEL = "Model"
_NETWORK = "Network"
_LIMITS = "Limits"
_NEEDED_TO_TUNE = ("accelerate", "peft", "trl")
PageUse = Literal["none", "shown", "opened"]
"""Whether there is a page beside the API, and whether a browser is sent to it at once."""
_NEEDED = ("fastapi", "uvicorn", "pydantic", "prometheus_client", "python_multipart")


@dataclass(frozen=True, kw_only=True)
class ServedOptions:
    """What is served, and what is kept."""

    demo: Annotated[bool, option(_MODEL, "Serve the tiny model that comes along.", "--demo")] = (
        False
    )
    names: Annotated[
        list[str] | None,
        option(
            _MODEL,
            "What requests call the model, besides what the command line calls it; may be "
            "repeated.",
            "--served-model-name",
            metavar="NAME",
        ),
    ] = None
    adapters: Annotated[
        list[str] | None,
        option(
            _MODEL,
            "A PEFT folder, and the name that it answers to; may be repeated.",
            "--adapter",
            metavar="NAME=DIR",
        ),
    ] = None
    adapter_dirs: Annotated[
        list[Path] | None,
        option(
            _MODEL,
            "A folder from below which adapters may be loaded over HTTP; may be repeated.",
            "--adapter-dir",
            metavar="DIR",
        ),
    ] = None
    tuning_dir: Annotated[
        Path | None,
        option(
            _MODEL,
            "Tune the model over HTTP, and keep jobs and adapters here; needs martlet[train].",
            "--tuning-dir",
            metavar="DIR",
        ),
    ] = None
    data_dir: Annotated[
        Path | None,
        option(
            _MODEL,
            "Where files and batches are kept; martlet in $XDG_DATA_HOME unless told.",
            "--data-dir",
            metavar="DIR",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Where the server listens, and who may ask it."""

    host: Annotated[
        str,
        option(_NETWORK, "Where to listen; 0.0.0.0 lets other machines in.", "--host"),
    ] = "127.0.0.1"
    port: Annotated[int, option(_NETWORK, "The port; never another one.", "--port")] = 8000
    api_key_file: Annotated[
        Path | None,
        option(
            _NETWORK,
            "Lines of KEY SCOPE, the scope use or administer; also MARTLET_API_KEYS and "
            "MARTLET_ADMIN_KEYS.",
            "--api-key-file",
            metavar="FILE",
        ),
    ] = None
    cors_origins: Annotated[
        list[str] | None,
        option(
            _NETWORK,
            "A web origin whose pages may ask; may be repeated.",
            "--cors-origin",
            metavar="ORIGIN",
        ),
    ] = None
    ssl_certfile: Annotated[
        Path | None, option(_NETWORK, "A certificate for HTTPS, PEM.", "--ssl-certfile")
    ] = None
    ssl_keyfile: Annotated[
        Path | None, option(_NETWORK, "The certificate's private key, PEM.", "--ssl-keyfile")
    ] = None

    def address(self) -> "Address":
        """Where to listen.

        Raises:
            ParameterError: If an option is out of its range.
        """
        from martlet.serve.address import Address

        return Address(
            host=self.host,
            port=self.port,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
        )


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """What the server takes, and for how long."""

    max_queue: Annotated[
        int,
        option(_LIMITS, "Samples that may wait; beyond, 429.", "--max-queue", metavar="N"),
    ] = 1024
    max_body_mb: Annotated[
        float,
        option(_LIMITS, "The largest body of a request, MiB.", "--max-body-mb", metavar="MIB"),
    ] = 8
    max_file_mb: Annotated[
        float,
        option(_LIMITS, "The largest file of a batch, MiB.", "--max-file-mb", metavar="MIB"),
    ] = 200
    context_policy: Annotated[
        ContextPolicy,
        option(
            _LIMITS,
            "What becomes of a chat that leaves no room for its reply, unless it says so itself.",
            "--context-policy",
        ),
    ] = "error"
    request_timeout: Annotated[
        float | None,
        option(
            _LIMITS,
            "Seconds for a request that names no timeout of its own.",
            "--request-timeout",
            metavar="SECONDS",
        ),
    ] = None
    drain_seconds: Annotated[
        float,
        option(
            _LIMITS,
            "How long running requests may finish after the first signal.",
            "--drain-seconds",
            metavar="SECONDS",
        ),
    ] = 30


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Whether people may look, too."""

    ui: Annotated[bool, option(_NETWORK, "Show a page in the browser, at /ui.", "--ui")] = False


@verb
def serve(
    *,
    model: ModelArgument = None,
    served: ServedOptions,
    network: NetworkOptions,
    limits: LimitOptions,
    runtime: RuntimeOptions,
    page: PageOptions,
) -> None:
    """Answer behind OpenAI's API: the model, and adapters by their names.

    Try `martlet serve --demo`, then point any OpenAI client at
    `http://127.0.0.1:8000/v1`. The first Ctrl-C lets running requests finish, the second stops
    at once.
    """
    run_server(model, served, network, limits, runtime, page="shown" if page.ui else "none")


def run_server(
    model: str | None,
    served: ServedOptions,
    network: NetworkOptions,
    limits: LimitOptions,
    runtime: RuntimeOptions,
    *,
    page: PageUse,
) -> None:
    """Serves until a signal.

    Raises:
        MartletError: If something given cannot be used.
    """
    named = named_model(model, served.demo, purpose="to serve")
    _check_extras(page)
    from martlet.errors import ParameterError
    from martlet.serve.address import bind
    from martlet.serve.keys import ApiKeys

    keys = ApiKeys.read(network.api_key_file)
    settings = _settings(limits, network.cors_origins or [], served)
    names = _names(named, served.names or [])
    adapters = _adapters(served.adapters or [], names)
    if adapters and runtime.backend == "vllm":
        raise ParameterError(
            "adapters by their names are served by the native backend alone; leave --backend vllm "
            "out, or serve a merged model"
        )
    address = network.address()
    with bind(address) as listener:
        typer.echo(f"loading {named}", err=True)
        backend = runtime.load(named, adapters=adapters)
        try:
            from martlet.serve.service import Service

            _tell_proofs(backend)
            _ = backend.tokenizer  # a server whose tokenizer nobody has can serve nothing
            service = Service.around(backend, base_names=names, keys=keys, settings=settings)
            _run(service, address, listener, page)
        finally:
            backend.close()


def _check_extras(page: PageUse) -> None:
    from importlib.util import find_spec

    from martlet.errors import MissingExtraError

    if any(find_spec(name) is None for name in _NEEDED):
        raise MissingExtraError("martlet serve", extra="serve")
    if page != "none" and find_spec("gradio") is None:
        raise MissingExtraError("the page", extra="ui")


def _settings(
    limits: LimitOptions, cors_origins: list[str], served: ServedOptions
) -> "ServeSettings":
    from martlet.errors import NotFoundError, ParameterError
    from martlet.serve.settings import MIB, ServeSettings, default_data_dir

    if not 0 < limits.max_body_mb < float("inf"):
        raise ParameterError(f"--max-body-mb must be above 0, not {limits.max_body_mb:g}")
    adapter_dirs = served.adapter_dirs or []
    for folder in adapter_dirs:
        if not folder.is_dir():
            raise NotFoundError(f"there is no folder {folder} to load adapters from")
    if served.tuning_dir is not None:
        _check_tuning(served.tuning_dir)
    return ServeSettings(
        max_body_bytes=int(limits.max_body_mb * MIB),
        max_num_queued=limits.max_queue,
        request_timeout_s=limits.request_timeout,
        drain_s=limits.drain_seconds,
        cors_origins=tuple(cors_origins),
        adapter_dirs=tuple(adapter_dirs),
        tuning_dir=served.tuning_dir,
        data_dir=served.data_dir or default_data_dir(),
        max_file_bytes=int(limits.max_file_mb * MIB),
        context_policy=limits.context_policy,
    )


def _check_tuning(folder: Path) -> None:
    from importlib.util import find_spec

    from martlet.errors import InputError, MissingExtraError

    if any(find_spec(name) is None for name in _NEEDED_TO_TUNE):
        raise MissingExtraError("--tuning-dir", extra="train")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--tuning-dir {folder} is a file; name a folder")


def _names(model: str, served: list[str]) -> tuple[str, ...]:
    """What requests may call the base: as the operator says, or a folder by its last part."""
    last_part = Path(model).resolve().name if Path(model).is_dir() else model
    if is_url(model):
        last_part = model.partition("#")[2] or model
    return tuple(dict.fromkeys([*served, last_part, model]))


def _adapters(given: list[str], base_names: tuple[str, ...]) -> dict[str, str]:
    from martlet.serve.adapter_paths import check_name

    name_to_folder = named_adapters(given)
    for name in name_to_folder:
        check_name(name, base_names=base_names)
    return name_to_folder


def _tell_proofs(backend: "Backend") -> None:
    from martlet.serve.catalog import list_adapters

    for info in list_adapters(backend):
        typer.echo(f"adapter {info.name}: {info.proof}", err=True)


def _run(service: "Service", address: "Address", listener: "socket", page: PageUse) -> None:
    import asyncio

    from martlet.serve.app import create_app
    from martlet.serve.run import Server

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


def _url(address: "Address", host: str, port: int) -> str:
    scheme = "http" if address.ssl_certfile is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _add_page(app: "FastAPI", service: "Service", address: "Address", *, url: str) -> None:
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
    import webbrowser

    typer.echo(f"the page is at {url}/ui", err=True)
    if opens:
        webbrowser.open(f"{url}/ui")


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("martlet").setLevel(logging.INFO)


def _welcome(service: "Service", address: "Address", url: str) -> None:
    from martlet.backends.native import NativeBackend

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
