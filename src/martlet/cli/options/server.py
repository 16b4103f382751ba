"""What is served, where, and within which limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from martlet.cli.options.option import option
from martlet.text.conversation import ContextPolicy

if TYPE_CHECKING:
    from martlet.serve.address import Address

_MODEL = "Model"
_NETWORK = "Network"
_LIMITS = "Limits"
PageUse = Literal["none", "shown", "opened"]
"""Whether there is a page beside the API, and whether a browser is sent to it at once."""


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
