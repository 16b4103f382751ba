"""The files that the script leaves: predictions, and how they were drawn."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from martlet.errors import InputError

CONFIG_NAME = "generation_config.json"


def check_free(predictions: Path) -> None:
    """Refuses to write over predictions.

    Raises:
        InputError: If there are some.
    """
    if predictions.exists():
        raise InputError(
            f"{predictions} exists, and nothing is overwritten; move it, or give another "
            "--predictions_file"
        )


def write_predictions(rows: Path, predictions: Path) -> None:
    """Turns a batch's result into the list of `Input` and `Output`, and shows each on stdout.

    Args:
        rows: What `martlet generate` wrote.
        predictions: The new file.
    """
    pairs = [_pair(json.loads(line)) for line in rows.read_text(encoding="utf-8").splitlines()]
    for index, pair in enumerate(pairs):
        print(f"======={index}=======")
        print(f"Input: {pair['Input']}\n")
        print(f"Output: {pair['Output']}\n")
    _write_json(predictions, pairs)


def write_config(folder: Path, values: Mapping[str, object]) -> None:
    """Writes the sampling parameters beside the predictions, unless they are there."""
    path = folder / CONFIG_NAME
    if not path.exists():
        _write_json(path, values)


def write_examples(path: Path, examples: Iterable[str]) -> None:
    """Writes examples one a line, as a data file has them."""
    path.write_text("".join(f"{example}\n" for example in examples), encoding="utf-8")


def _pair(row: Mapping[str, object]) -> dict[str, object]:
    pair = {"Input": row["prompt"], "Output": row.get("reply")}
    return pair if row.get("error") is None else {**pair, "Error": row["error"]}


def _write_json(path: Path, content: object) -> None:
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    draft.replace(path)
