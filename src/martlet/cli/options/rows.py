"""The rows of a file, and where their results go."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from martlet.cli.options.option import option
from martlet.cli.options.result import RESULT, OverwriteOption

if TYPE_CHECKING:
    from martlet.batch.options import JobOptions

ROWS = "Rows and prompts"
"""The heading of these options."""

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="The rows: .jsonl, .json, .csv, .parquet or .txt; - reads JSON lines from stdin.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What becomes of a file's rows, and where the result goes."""

    out: Annotated[
        Path,
        option(
            RESULT,
            "The result, JSON lines in the order of the data; journal, card and report lie beside.",
            "--out",
            "-o",
            metavar="FILE",
        ),
    ]
    overwrite: OverwriteOption = False
    system: Annotated[
        str | None,
        option(ROWS, "The system message of rows that have none.", "--system", metavar="TEXT"),
    ] = None
    prompt_template: Annotated[
        Path | None,
        option(
            ROWS,
            "A Jinja file that words each row as a user's message.",
            "--prompt-template",
            metavar="FILE",
        ),
    ] = None
    raw: Annotated[
        bool, option(ROWS, "Give the model the text as it is, without chat template.", "--raw")
    ] = False
    too_long: Annotated[
        Literal["error", "skip", "truncate-left"],
        option(ROWS, "What to do with a prompt that leaves no room to reply.", "--too-long"),
    ] = "error"
    skip_bad_rows: Annotated[
        bool,
        option(ROWS, "Give a bad row an error of its own and go on.", "--skip-bad-rows"),
    ] = False
    allow_repeated_options: Annotated[
        bool,
        option(
            ROWS,
            "Keep options that say the same, each under its letter.",
            "--allow-repeated-options",
        ),
    ] = False

    def job_options(self, data: str, given_params: dict[str, object]) -> "JobOptions":
        """What a batch takes.

        Args:
            data: The file of rows.
            given_params: The sampling parameters of the command line.
        """
        from martlet.batch.options import JobOptions

        return JobOptions(
            data=data,
            out=self.out,
            given_params=given_params,
            prompt_template=self.prompt_template,
            system=self.system,
            is_raw=self.raw,
            allow_repeated_options=self.allow_repeated_options,
            on_bad_row="skip" if self.skip_bad_rows else "error",
            too_long=self.too_long,
            overwrite=self.overwrite,
        )
