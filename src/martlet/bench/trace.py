"""The lengths of real requests, from a file of the user's."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import NotFoundError, RowError

_PROMPT = ("num_prefill_tokens", "ContextTokens", "prompt_tokens", "input_tokens")
_REPLY = ("num_decode_tokens", "GeneratedTokens", "completion_tokens", "output_tokens")
"""Columns as published traces and OpenAI's `usage` name them."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Prompt and reply lengths, in tokens, in the order of the file."""

    lengths: list[tuple[int, int]]
    scale: float
    """What the file's lengths were multiplied with, so that the longest fits."""


def read_trace(path: Path, *, num_requests: int, longest: int, scale: float = 1.0) -> Trace:
    """Reads the first requests of a file and shortens all of them alike, if one is too long.

    Args:
        path: CSV with a header, or JSON lines (`.jsonl`).
        num_requests: How many; a file may have fewer.
        longest: The most tokens that prompt and reply may have together.
        scale: What all lengths are multiplied with in any case.

    Raises:
        NotFoundError: If there is nothing in it.
        RowError: If a row does not tell both lengths.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = _json_rows(file, path) if path.suffix == ".jsonl" else csv.DictReader(file)
        lengths = [
            (_length(row, _PROMPT, path, number), _length(row, _REPLY, path, number))
            for number, row in zip(range(1, num_requests + 1), rows, strict=False)
        ]
    if not lengths:
        raise NotFoundError(f"--trace {path}: no request is in it")
    scale = min(scale, longest / max(map(sum, lengths)))
    return Trace(
        lengths=[(max(1, int(p * scale)), max(1, int(r * scale))) for p, r in lengths], scale=scale
    )


def _json_rows(lines: Iterable[str], path: Path) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RowError(f"it is no JSON: {error}", path=str(path), line=number) from error
        yield row if isinstance(row, dict) else {}


def _length(row: Mapping[str, object], names: tuple[str, ...], path: Path, number: int) -> int:
    for name in names:
        value = str(row.get(name, ""))
        if value.isdecimal() and int(value) > 0:
            return int(value)
    raise RowError(
        f"a request needs one of {', '.join(names)}, a whole number above 0",
        path=str(path),
        line=number,
    )
