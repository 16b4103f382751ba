"""Training rows that were dropped, looked at as a job will look at them, before there is one."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from martlet.models.context import context_limit
from martlet.models.folder import open_folder
from martlet.models.pretrained import load_config
from martlet.models.resolve import resolve
from martlet.text.tokenizer import Tokenizer
from martlet.train.config import DataConfig
from martlet.train.doctor import Diagnosis, examine
from martlet.train.example import Preference
from martlet.train.lessons import MAX_LENGTH
from martlet.train.sources import read_source


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What was found in files of rows."""

    diagnosis: Diagnosis
    validation: Path | None
    has_preferences: bool
    """Whether its rows are pairs of a better and a worse reply."""


class Doctor:
    """Examines rows for the model that is served.

    Args:
        model: What the server loaded it from.
        chat_template: That it serves with; None for that of the model's folder.
    """

    def __init__(self, model: str, *, chat_template: str | None) -> None:
        self._model = model
        self._chat_template = chat_template
        self._lock = Lock()
        self._loaded: tuple[Tokenizer, int] | None = None

    def examine(self, training: Path, validation: Path | None) -> Checkup:
        """Reads and examines files, in any thread and one after the other.

        Raises:
            MartletError: If a file cannot be cut into rows, or the model's folder is gone.
        """
        config = DataConfig()
        learned = read_source(str(training), config)
        measured = [] if validation is None else [read_source(str(validation), config)]
        with self._lock:  # a tokenizer is not thread-safe
            tokenizer, max_length = self._loaded = self._loaded or self._load()
            diagnosis = examine([learned], measured, tokenizer, max_length=max_length)
        return Checkup(
            diagnosis=diagnosis,
            validation=validation,
            has_preferences=any(isinstance(row, Preference) for row in learned.examples),
        )

    def _load(self) -> tuple[Tokenizer, int]:
        folder = open_folder(resolve(self._model))
        limit = context_limit(load_config(folder, trust_remote_code=False))
        tokenizer = Tokenizer.load(folder.path, chat_template=self._chat_template)
        return tokenizer, min(MAX_LENGTH, limit)
