"""The articles whose commands and functions run again, where the checkout has them."""

import re
from itertools import pairwise

import pytest

from support.shared import SHARED

SEEDS = SHARED / "seeds"
needs_articles = pytest.mark.skipif(not SEEDS.is_dir(), reason=f"no articles in {SEEDS}")
"""Marks a test that runs what an article shows."""


def article(number: int) -> str:
    """The text of one of the five, counted from 1."""
    (path,) = SEEDS.glob(f"{number - 1:03}_*.txt")
    return path.read_text(encoding="utf-8")


def python_snippets() -> list[str]:
    """The fifth article's Python, without the output that is shown behind it."""
    begins = r"^(?:import os\n|from (?:swift\.llm|openai) import )"
    ends = r"^(?:\"\"\"|使用|qwen-7b\n)"
    snippets, lines = [], article(5).splitlines(keepends=True)
    inside: list[str] | None = None
    for line in lines:
        if inside is None and re.match(begins, line):
            inside = []
        if inside is not None and re.match(ends, line):
            snippets.append("".join(inside))
            inside = None
        if inside is not None:
            inside.append(line)
    return snippets


def commands() -> list[str]:
    """The fifth article's command lines, from the program's name on, each in one line."""
    joined = re.sub(r"\\\n(?!\n)\s*", "", article(5))
    found = re.findall(
        r"^(?:\w+=\S+ +)*(swift (?:sft|infer|export|deploy|app-ui) .*)$", joined, re.M
    )
    return [line.rstrip("\\ ") for line in found]


def requests() -> list[str]:
    """The fifth article's calls of curl."""
    return re.findall(r"^curl .*?\n}'$", article(5), re.M | re.S)


def unfolded(mashed: str, lines: list[tuple[int, str]]) -> str:
    """Code whose line breaks a web page lost, broken again.

    Args:
        mashed: The code in one line.
        lines: Of each line how deep it is, and how it begins.
    """
    places, place = [], 0
    for _, beginning in lines:
        place = mashed.index(beginning, place)
        places.append(place)
        place += len(beginning)
    pieces = [mashed[start:end] for start, end in pairwise([*places, None])]
    return "".join(
        f"{'    ' * depth}{piece}\n" for (depth, _), piece in zip(lines, pieces, strict=True)
    )
