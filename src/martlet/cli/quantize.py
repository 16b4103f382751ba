"""`martlet quantize`: a model in 8 or 4 bits, with a certificate of what that cost."""

from typing import Annotated, Literal, cast

import typer

from martlet.cli.export_options import (
    OutFolderOption,
    ProofDataOption,
    bars_shown,
    named_data,
    read_data,
    tell_certificate,
)
from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb


@verb
def quantize(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A folder, a Hugging Face id, ms: and a ModelScope id, or demo.",
        ),
    ],
    out: OutFolderOption,
    bits: Annotated[
        Literal["8", "4"],
        option("Model", "8: weights and activations; 4: weights, in groups.", "--bits"),
    ] = "8",
    calibration: Annotated[
        str | None,
        option(
            "Model",
            "With 4 bits: rows like those to be answered, for GPTQ; else the nearest value.",
            "--calibration",
            metavar="FILE",
        ),
    ] = None,
    data: ProofDataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store the linear layers of a model in 8 or 4 bits.

    The format is compressed-tensors, which vLLM and transformers load too. Both models answer the
    same rows: `certificate.json` says how far they agree. Above the limits the command fails and
    the folder is called `DIR.rejected`.
    """
    from martlet.export.quantize import Bits
    from martlet.export.run import quantize as run

    with bars_shown() as report:
        certificate = run(
            model,
            out=out,
            bits=cast(Bits, int(bits)),
            calibration=None if calibration is None else read_data(calibration),
            data=named_data(data),
            report=report,
        )
    tell_certificate(certificate, out, as_json=as_json)
