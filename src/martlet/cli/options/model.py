"""Which model, and which adapters."""

from collections.abc import Sequence
from typing import Annotated

import typer

from martlet.cli.options.option import option
from martlet.errors import ParameterError

_MODEL = "Model"

ModelOption = Annotated[
    str,
    option(
        _MODEL,
        "A folder, a Hugging Face id, ms: and a ModelScope id, demo, or a server: URL#NAME.",
        "--model",
        "-m",
        metavar="MODEL",
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A folder, a Hugging Face id, ms: and a ModelScope id, demo, or a server: "
        "URL#NAME, with --tokenizer.",
        envvar="MARTLET_MODEL",
        show_envvar=False,
    ),
]
AdapterOption = Annotated[
    str | None,
    option(
        _MODEL,
        "A LoRA adapter as PEFT saves it, un-merged: a name and its folder.",
        "--adapter",
        metavar="NAME=DIR",
    ),
]


def named_adapter(given: str) -> tuple[str, str]:
    """Splits `NAME=DIR`.

    Raises:
        ParameterError: If it is not written like that.
    """
    name, _, folder = given.partition("=")
    if not name or not folder:
        raise ParameterError(f"--adapter takes NAME=DIR, such as judge=./judge, not {given!r}")
    return name, folder


def named_adapters(given: Sequence[str]) -> dict[str, str]:
    """Splits several `NAME=DIR`: folders by name.

    Raises:
        ParameterError: If one is not written like that, or a name comes twice.
    """
    name_to_folder: dict[str, str] = {}
    for name, folder in map(named_adapter, given):
        if name in name_to_folder:
            raise ParameterError(f"--adapter names {name!r} twice; give each a name of its own")
        name_to_folder[name] = folder
    return name_to_folder


def named_model(model: str | None, demo: bool, *, purpose: str) -> str:
    """The model of a verb that takes `--demo` in place of one.

    Args:
        purpose: What it is for, such as `to serve`.

    Raises:
        ParameterError: If none or both are given.
    """
    if demo == (model is not None):
        raise ParameterError(f"name a model {purpose}, or give --demo, and not both")
    return model or "demo"
