"""A server from the options of the command line."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from martlet.backends.options import is_url
from martlet.cli.options.model import named_adapters, named_model
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.options.server import LimitOptions, NetworkOptions, PageUse, ServedOptions
from martlet.errors import InputError, MissingExtraError, NotFoundError, ParameterError
from martlet.serve.adapter_paths import check_name
from martlet.serve.address import bind
from martlet.serve.keys import ApiKeys
from martlet.serve.settings import MIB, ServeSettings, default_data_dir

if TYPE_CHECKING:
    from martlet.backends.base import Backend

_NEEDED = ("fastapi", "uvicorn", "pydantic", "prometheus_client", "python_multipart")
_NEEDED_TO_TUNE = ("accelerate", "peft", "trl")


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
            from martlet.cli.listening import listen
            from martlet.serve.service import Service

            _tell_proofs(backend)
            _ = backend.tokenizer  # a server whose tokenizer nobody has can serve nothing
            service = Service.around(backend, base_names=names, keys=keys, settings=settings)
            listen(service, address, listener, page)
        finally:
            backend.close()


def _check_extras(page: PageUse) -> None:
    if any(find_spec(name) is None for name in _NEEDED):
        raise MissingExtraError("martlet serve", extra="serve")
    if page != "none" and find_spec("gradio") is None:
        raise MissingExtraError("the page", extra="ui")


def _settings(
    limits: LimitOptions, cors_origins: list[str], served: ServedOptions
) -> ServeSettings:
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
    name_to_folder = named_adapters(given)
    for name in name_to_folder:
        check_name(name, base_names=base_names)
    return name_to_folder


def _tell_proofs(backend: "Backend") -> None:
    from martlet.serve.catalog import list_adapters

    for info in list_adapters(backend):
        typer.echo(f"adapter {info.name}: {info.proof}", err=True)
