"""The flags of another tool's command: a table of them, and what Martlet's options say instead."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

import typer

from martlet.errors import ParameterError

Given = Mapping[str, Any]
"""Values by the names of flags; None where a flag was neither given nor has a default."""


def truth(text: str) -> bool:
    """`true` or `false`, in any case."""
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}") from None


_METAVARS = {int: "N", float: "X"}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of another tool."""

    name: str
    explanation: str
    kind: type | Any = str
    """What makes a value of its text."""
    choices: tuple[str, ...] | None = None
    many: bool = False
    default: object = None
    modern: str | None = None
    """The option of Martlet's that takes the value as it stands."""
    moot: str | None = None
    """Why the flag has no effect here; it is told where the flag is given."""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Lets a parser know the flag."""
        more: dict[str, Any] = {}
        if self.many:
            more["nargs"] = "+"
        elif self.kind is truth:
            more |= {"nargs": "?", "const": True, "metavar": "true|false"}
        if self.choices is None and "metavar" not in more:
            more["metavar"] = _METAVARS.get(self.kind, "TEXT")
        explanation = self.explanation if self.moot is None else f"No effect: {self.moot}."
        if self.default is not None:
            explanation = f"{explanation} [default: {self.default}]"
        parser.add_argument(
            f"--{self.name}",
            type=self.kind,
            choices=self.choices,
            default=self.default,
            help=explanation.replace("%", "%%"),
            **more,
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ParameterError(f"{self.prog}: {message}")


@dataclass(frozen=True, kw_only=True)
class FlagTable:
    """All flags of one command."""

    command: str
    """As it is called, such as `swift infer`."""
    purpose: str
    flags: tuple[Flag, ...]

    def parse(self, arguments: Sequence[str]) -> Given:
        """Reads a command line; `--help` shows the table and ends the program.

        Raises:
            ParameterError: If a flag is unknown (the nearest one is named) or a value is not of its
                kind.
        """
        parser = _Parser(
            prog=self.command,
            usage=f"{self.command} [FLAGS]",
            description=self.purpose,
            allow_abbrev=False,
        )
        for flag in self.flags:
            flag.add_to(parser)
        found, foreign = parser.parse_known_args([_underscored(each) for each in arguments])
        if foreign:
            raise ParameterError(self._refusal(foreign))
        given = vars(found)
        for flag in self.flags:
            if flag.moot is not None and given[flag.name] is not None:
                typer.echo(f"--{flag.name} has no effect: {flag.moot}", err=True)
        return given

    def straight(self, given: Given) -> list[str]:
        """The options that take a value as it stands."""
        options: list[str] = []
        for flag in self.flags:
            if flag.modern is not None:
                options += said(flag.modern, given[flag.name])
        return options

    def _refusal(self, foreign: Sequence[str]) -> str:
        unknown = next((each for each in foreign if each.startswith("--")), None)
        if unknown is None:
            return f"{self.command}: {foreign[0]!r} belongs to no flag"
        name = unknown.removeprefix("--").partition("=")[0]
        known = [flag.name for flag in self.flags]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean --{near[0]}?" if near else f"known: --{', --'.join(known)}"
        return f"{self.command} knows no --{name}; {hint}"


def _underscored(argument: str) -> str:
    """A flag that is written with dashes, as the table has it."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.removeprefix("--").partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def said(option: str, value: object) -> list[str]:
    """An option of the command line with its value; nothing for None and False."""
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, list):
        return [part for each in value for part in said(option, each)]
    return [option, str(value)]
