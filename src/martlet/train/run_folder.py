"""The folder of a run: which run it belongs to, how far that came, and what stays when it ends.

recipe.yaml        the whole config, defaults included; `martlet train --config` takes it
checkpoints/       from which the run goes on
metrics.jsonl      losses, step by step
loss.png           their curve
tensorboard/       the same for TensorBoard, where it was asked for
martlet.json       written last but for the proof: the run is finished
"""

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from martlet.errors import InputError
from martlet.lora.provenance import PROVENANCE_NAME
from martlet.train.config import TrainConfig, to_fields
from martlet.train.disk import check_room

RECIPE_NAME = "recipe.yaml"
_STATE_NAME = "trainer_state.json"
_IDENTITY_NAME = "identity.json"
_DRAFT_PREFIX = ".draft-"
_MAY_CHANGE = ("out", "save_every", "report")
"""Fields that change nothing about the weights."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A folder that belongs to one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps its checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Losses, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files, if the run reports to TensorBoard."""
        return self.path / "tensorboard"

    @property
    def curve(self) -> Path:
        """Their picture."""
        return self.path / "loss.png"

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end; later, broken ones are removed."""
        found = sorted(
            self.checkpoints.glob("checkpoint-*"), key=lambda each: int(each.name.split("-")[1])
        )
        while found and not _is_whole(found[-1]):
            shutil.rmtree(found.pop())
        return found[-1] if found else None

    def drop_checkpoints(self) -> None:
        """Removes them when nothing is left to go on with."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def open_run(config: TrainConfig, *, inputs: dict[str, str]) -> RunFolder:
    """Claims a folder for a run, or finds that it was claimed by the same one.

    Several processes of one run may do so at once.

    Args:
        inputs: Hashes of what the run reads: base, template, data.

    Raises:
        InputError: If the folder holds a finished run, another run, or something else.
        ResourceError: If the disk is full.
    """
    import yaml

    path = config.out
    if not check_free(config, inputs=inputs):
        path.mkdir(parents=True, exist_ok=True)
        check_room(path)
        _write(path / _IDENTITY_NAME, json.dumps(_identity(config, inputs), indent=2))
    # Never first: to the run's other processes a folder without an identity is somebody else's.
    if not (path / RECIPE_NAME).exists():
        recipe = yaml.safe_dump(to_fields(config), sort_keys=False, allow_unicode=True)
        _write(path / RECIPE_NAME, recipe)
    return RunFolder(path=path)


def check_free(config: TrainConfig, *, inputs: dict[str, str]) -> bool:
    """Checks that a folder can be claimed for a run, and writes nothing.

    Returns:
        Whether the same run has claimed it before.

    Raises:
        InputError: As `open_run` does.
    """
    path = config.out
    if (path / PROVENANCE_NAME).exists():
        raise InputError(f"{path} holds a finished run; name another folder with --out")
    if not (path.exists() and any(not _is_draft(each) for each in path.iterdir())):
        return False
    _check_same(path, _identity(config, inputs))
    return True


def _write(path: Path, content: str) -> None:
    """Writes a file that other processes see whole or not at all."""
    draft = path.with_name(f"{_DRAFT_PREFIX}{uuid.uuid4().hex}")
    draft.write_text(content, encoding="utf-8")
    draft.replace(path)


def _is_draft(path: Path) -> bool:
    return path.name.startswith(_DRAFT_PREFIX)


def _identity(config: TrainConfig, inputs: dict[str, str]) -> dict[str, Any]:
    recipe = {name: value for name, value in to_fields(config).items() if name not in _MAY_CHANGE}
    return {"inputs": inputs, "recipe": recipe}


def _check_same(path: Path, identity: dict[str, Any]) -> None:
    try:
        before = json.loads((path / _IDENTITY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} is not empty and holds no run; name another with --out") from None
    changed = [
        name
        for part in ("inputs", "recipe")
        for name in sorted({*before[part], *identity[part]})
        if before[part].get(name) != identity[part].get(name)
    ]
    if changed:
        raise InputError(
            f"{path} holds an unfinished run of another recipe: {', '.join(changed)} changed; give "
            f"what {path / RECIPE_NAME} says to go on with it, or another --out"
        )


def _is_whole(checkpoint: Path) -> bool:
    """The trainer writes its state last."""
    try:
        json.loads((checkpoint / _STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
