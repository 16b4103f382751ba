"""What becomes of a result."""

from typing import Annotated

from martlet.cli.options.option import option

RESULT = "Result"
"""The heading of these options."""
JsonOption = Annotated[
    bool, option(RESULT, "Print the summary as one JSON object on stdout.", "--json")
]
OverwriteOption = Annotated[
    bool, option(RESULT, "Replace a result that was made from something else.", "--overwrite")
]
