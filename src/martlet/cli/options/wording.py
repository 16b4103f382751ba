"""How rows that hold their replies are worded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from martlet.cli.options.option import option
from martlet.cli.options.rows import ROWS

if TYPE_CHECKING:
    from martlet.train.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class WordingOptions:
    """Which column is what, and the words around it."""

    columns: Annotated[
        list[str] | None,
        option(
            ROWS,
            "Which column is what: reply=summary. Repeatable.",
            "--map",
            metavar="ROLE=COLUMN",
        ),
    ] = None
    prompt_template: Annotated[
        Path | None,
        option(ROWS, "A Jinja file that words the prompt.", "--prompt-template", metavar="FILE"),
    ] = None
    allow_repeated_options: Annotated[
        bool, option(ROWS, "Keep options that say the same.", "--allow-repeated-options")
    ] = False

    def data_config(self) -> "DataConfig":
        """What reads the rows, as `martlet train` does."""
        from martlet.train.config import DataConfig

        return DataConfig(
            map=tuple(self.columns or ()),
            prompt_template=self.prompt_template,
            allow_repeated_options=self.allow_repeated_options,
        )
