"""The validation rows of a training, as questions to answer."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from martlet.compat.swift.checkpoint import MERGED_SUFFIX
from martlet.errors import NotFoundError
from martlet.lora.provenance import read_provenance
from martlet.train.config import resolve_config
from martlet.train.example import Completion, Example, Preference
from martlet.train.sources import read_source
from martlet.train.split import split_off

_FOLDER = "infer_result"


def result_path(folder: Path, options: Sequence[str]) -> Path:
    """Where replies go: a file for each way to draw them, so that a killed run goes on in its own.

    Args:
        folder: The checkpoint's.
        options: What decides the replies.
    """
    place = folder / _FOLDER
    place.mkdir(exist_ok=True)
    digest = blake2b("\0".join(options).encode(), digest_size=4).hexdigest()
    return place / f"replies-{digest}.jsonl"


def write_questions(folder: Path, file: str | None) -> str:
    """The file of rows to answer: the one that is given, or the training's validation rows.

    A row holds the conversation up to its last reply, and that reply as `expected`.

    Args:
        folder: Of an adapter, or of a model that one was merged into.
        file: What to answer instead.

    Raises:
        NotFoundError: If the folder does not say what it was trained on.
    """
    if file is not None:
        return file
    rows = [_question(example) for example in _validation(folder)]
    path = folder / _FOLDER / "questions.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def _validation(folder: Path) -> tuple[Example, ...]:
    trained = folder.with_name(folder.name.removesuffix(MERGED_SUFFIX))
    provenance = read_provenance(trained)
    if provenance is None or not provenance.recipe.get("validation"):
        raise NotFoundError(
            f"{trained} names no validation rows of its training; give a file of rows with "
            "--custom_val_dataset_path"
        )
    named = {name: value for name, value in provenance.recipe.items() if value is not None}
    config = resolve_config(named)
    validation = config.rows.validation
    assert validation is not None
    try:
        share = float(validation)
    except ValueError:
        return read_source(validation, config.rows).examples
    examples = [each for name in config.data for each in read_source(name, config.rows).examples]
    return split_off(examples, share)[1]


def _question(example: Example) -> dict[str, object]:
    if isinstance(example, Completion):
        return {"prompt": example.prompt, "expected": example.completion}
    if isinstance(example, Preference):
        return {"messages": list(example.messages), "expected": example.chosen[-1]["content"]}
    *before, reply = example.messages
    return {"messages": before, "expected": reply["content"]}
