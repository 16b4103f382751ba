"""An option with its environment variable.

The variable of an option is `MARTLET_` and the option's name: `MARTLET_MODEL`, `MARTLET_TOP_P`.
"""

import typer


def option(
    panel: str,
    explanation: str,
    *names: str,
    metavar: str | None = None,
    variable: str | None = None,
) -> object:
    """An option with its environment variable.

    Args:
        panel: The heading under which the help page shows it.
        explanation: One sentence.
        names: The flags, the long one first.
        metavar: What the help page shows in place of the type.
        variable: The environment variable without its `MARTLET_`, where it is not the flag's name.
    """
    variable = variable or names[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        *names,
        help=explanation,
        metavar=metavar,
        envvar=f"MARTLET_{variable}",
        show_envvar=False,
        rich_help_panel=panel,
    )
