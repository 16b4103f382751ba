"""The command: reads the flags, tells the modern commands, runs them."""

import sys
from collections.abc import Callable, Mapping, Sequence

from martlet.cli.main import ending_well
from martlet.compat import verbs
from martlet.compat.flags import FlagTable, Given
from martlet.compat.swift.deploy import APP_UI, DEPLOY, app_ui, deploy
from martlet.compat.swift.export import EXPORT, export
from martlet.compat.swift.infer import INFER, infer
from martlet.compat.swift.sft import sft
from martlet.compat.swift.sft_flags import SFT
from martlet.errors import ParameterError

_COMMANDS: Mapping[str, tuple[FlagTable, Callable[[Given], list[verbs.Verb]]]] = {
    "sft": (SFT, sft),
    "infer": (INFER, infer),
    "export": (EXPORT, export),
    "deploy": (DEPLOY, deploy),
    "app-ui": (APP_UI, app_ui),
}
_USAGE = "\n".join(
    [
        "usage: python -m martlet.compat.swift COMMAND [FLAGS]; COMMAND --help shows its flags",
        "",
        *(f"  {name:8}{table.purpose}" for name, (table, _) in _COMMANDS.items()),
    ]
)


def main(arguments: Sequence[str]) -> None:
    """Runs a command of ms-swift 2's.

    Raises:
        ParameterError: If there is no such command, or a flag cannot be used.
        MartletError: As the verb does that the command becomes.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return
    modern = translated(arguments)
    verbs.tell(modern)
    verbs.run(modern)


def translated(arguments: Sequence[str]) -> list[verbs.Verb]:
    """The modern commands that a command becomes, to be run one after the other.

    Raises:
        ParameterError: If there is no such command, or a flag cannot be used.
        MartletError: If a file that they need cannot be read or made.
    """
    command, *flags = arguments
    if command not in _COMMANDS:
        raise ParameterError(f"no command {command!r}; known: {', '.join(_COMMANDS)}")
    table, translate = _COMMANDS[command]
    return translate(table.parse(flags))


if __name__ == "__main__":
    ending_well(lambda: main(sys.argv[1:]))
