"""`martlet merge`: an adapter into its base, with a certificate that it is still the same model."""

from typing import Annotated, Literal

import typer

from martlet.cli.export_options import (
    OutFolderOption,
    ProofDataOption,
    bars_shown,
    named_data,
    tell_certificate,
)
from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb


@verb
def merge(
    *,
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER", show_default=False, help="The folder that training or PEFT wrote."
        ),
    ],
    out: OutFolderOption,
    model: Annotated[
        str | None,
        option(
            "Model",
            "The base; unless given, the one that the adapter's martlet.json names.",
            "--model",
            "-m",
            metavar="MODEL",
        ),
    ] = None,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        option("Model", "How weights are stored; unless given, as the base's are.", "--dtype"),
    ] = None,
    data: ProofDataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an adapter into the weights of its base.

    The sums are made in fp32, the result is stored as the base is, and both (the adapter on the
    base, and the merged model) answer the same rows: `certificate.json` says how far they agree. If
    they do not, the command fails and the folder is called `DIR.rejected`.
    """
    from martlet.cli.quiet import quiet_libraries

    quiet_libraries()
    from martlet.export.run import merge as run

    with bars_shown() as report:
        certificate = run(
            adapter, out=out, model=model, dtype=dtype, data=named_data(data), report=report
        )
    tell_certificate(certificate, out, as_json=as_json)
