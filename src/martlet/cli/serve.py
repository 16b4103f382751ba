"""`martlet serve`: answers behind OpenAI's API."""

from martlet.cli.options.model import ModelArgument
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.options.server import LimitOptions, NetworkOptions, PageOptions, ServedOptions
from martlet.cli.verb import verb


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
    from martlet.cli.serving import run_server

    run_server(model, served, network, limits, runtime, page="shown" if page.ui else "none")
