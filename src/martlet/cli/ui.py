"""`martlet ui`: a server with its page, and a browser that shows it."""

from martlet.cli.options.model import ModelArgument
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.options.server import LimitOptions, NetworkOptions, ServedOptions
from martlet.cli.verb import verb


@verb
def ui(
    *,
    model: ModelArgument = None,
    served: ServedOptions,
    network: NetworkOptions,
    limits: LimitOptions,
    runtime: RuntimeOptions,
) -> None:
    """Talk to a model in the browser, compare, vote and run batches: the page of `serve --ui`.

    Try `martlet ui --demo`. It is `martlet serve --ui`, and opens the browser.
    """
    from martlet.cli.serving import run_server

    run_server(model, served, network, limits, runtime, page="opened")
