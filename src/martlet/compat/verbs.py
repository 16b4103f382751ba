"""Runs Martlet's own verbs in this process, and tells their commands first."""

import shlex
from collections.abc import Sequence

from martlet.compat.telling import tell_same

Verb = Sequence[str]
"""A command line of `martlet`, without its first word."""


def tell(verbs: Sequence[Verb]) -> None:
    """Says on stderr which modern commands do the same."""
    for verb in verbs:
        tell_same(shlex.join(["martlet", *verb]))


def run(verbs: Sequence[Verb]) -> None:
    """Runs verbs one after the other; the first that fails is the last.

    Raises:
        SystemExit: With the exit code of a verb whose options are not valid.
        MartletError: As the verbs do.
    """
    from martlet.cli.main import app

    for verb in verbs:
        try:
            app(list(verb), prog_name="martlet")
        except SystemExit as ended:
            if ended.code:
                raise
