"""What the user chooses about a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from martlet.text.context import TooLongPolicy

BadRowPolicy = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What the user chooses about a batch."""

    data: str
    """The file of rows; `-` reads JSON lines from the standard input."""
    out: Path
    """The result, JSON lines whatever the data file is. Journal, card and partial lie beside it."""
    given_params: Mapping[str, object] = field(default_factory=dict)
    """Sampling parameters of the command line, by their names in `SamplingParams`."""
    prompt_template: Path | None = None
    """A Jinja file that words each row or question as a user's message."""
    system: str | None = None
    """The system message of rows that have none."""
    is_raw: bool = False
    """Gives the model the text as it stands, without its chat template."""
    allow_repeated_options: bool = False
    """Keeps options that say the same, each under its letter."""
    on_bad_row: BadRowPolicy = "error"
    """`error` refuses the run before compute; `skip` makes it an error on the row alone."""
    too_long: TooLongPolicy = "error"
    """What to do with a prompt that leaves no room for its reply."""
    overwrite: bool = False
    """Replaces a result that was made from something else."""
