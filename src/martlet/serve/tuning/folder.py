"""The folder of a tuning job: a copy of its rows, what its run is told, and the run.

training.jsonl       as they were uploaded; the suffix is the uploaded file's
validation.jsonl
chat_template.jinja  of the model that is served
recipe.yaml          what `martlet train --config` is told
train.log            what it said
run/                 its run folder, in the end the adapter
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import InputError, ResourceError
from martlet.lora.provenance import PROVENANCE_NAME, Provenance, read_provenance
from martlet.train.config import TrainConfig, to_fields
from martlet.train.run_folder import RunFolder

RUN_NAME = "run"
TEMPLATE_NAME = "chat_template.jinja"
_KNOWN_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class JobFolder:
    """Where a job lies; every path within is told to the run as seen from here."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def run(self) -> RunFolder:
        return RunFolder(path=self.path / RUN_NAME)

    @property
    def is_trained(self) -> bool:
        """Whether the run has come to its end."""
        return (self.run.path / PROVENANCE_NAME).exists()

    def provenance(self) -> Provenance | None:
        """Where the adapter comes from, with its proof; raises AdapterError for a broken file."""
        return read_provenance(self.run.path)

    def last_step(self) -> int:
        """The step that a run goes on from."""
        checkpoint = self.run.last_checkpoint()
        return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])

    def make(self, config: TrainConfig, *, files: dict[str, Path], template: str | None) -> None:
        """Writes all that the run needs; nothing is left of it if that fails.

        Args:
            config: Of the run.
            files: Rows, by the names that the config has for them.
            template: The chat template.

        Raises:
            InputError: If a file holds no rows.
            ResourceError: If the disk is full, or the folder cannot be made.
        """
        import yaml

        try:
            self.path.mkdir(parents=True, mode=0o700)
            for name, file in files.items():
                shutil.copyfile(file, self.path / name)
                _check_filled(self.path / name)
            if template is not None:
                (self.path / TEMPLATE_NAME).write_text(template, encoding="utf-8")
            recipe = yaml.safe_dump(to_fields(config), sort_keys=False, allow_unicode=True)
            self.recipe.write_text(recipe, encoding="utf-8")
        except OSError as error:
            self.remove()
            raise ResourceError(f"{self.path} cannot be written: {error.strerror}") from error
        except InputError:
            self.remove()
            raise

    def remove(self) -> None:
        """Forgets everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def name_of(purpose: str, filename: str) -> str:
    """What the copy of an uploaded file is called; the suffix tells its format."""
    suffix = Path(filename).suffix.lower()
    return purpose + (suffix if suffix in _KNOWN_SUFFIXES else ".jsonl")


def _check_filled(path: Path) -> None:
    with path.open("rb") as file:
        if not any(line.strip() for line in file):
            raise InputError(f"the {path.stem} file holds no rows, only empty lines")
