"""The rows of a run: read, encoded, and split for validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from martlet.text.tokenizer import Tokenizer
from martlet.train.config import TrainConfig
from martlet.train.encoding import EncodedExample, EncodedPreference, Encoder
from martlet.train.example import Completion, Conversation, Example, Preference
from martlet.train.sources import read_source

MAX_LENGTH = 4096
"""Tokens of a row unless the user says otherwise; models allow 128,000, and memory does not."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a run learns from and is measured on."""

    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    max_length: int
    file_hashes: Mapping[str, str]
    """SHA-256 of each file, by its name."""

    @classmethod
    def read(cls, config: TrainConfig, tokenizer: Tokenizer, max_context_tokens: int) -> "Lessons":
        """Reads the files of a run.

        Raises:
            NotFoundError, InputError: If a file or a row cannot be used.
        """
        training: list[Example] = []
        hashes = {}
        for path in config.data:
            examples, hashes[path] = read_source(path)
            training += examples
        validation: list[Example] = []
        if config.rows.validation is not None:
            validation, hashes[config.rows.validation] = read_source(config.rows.validation)
        return cls(
            training=tuple(training),
            validation=tuple(validation),
            max_length=config.rows.max_length or min(MAX_LENGTH, max_context_tokens),
            file_hashes=hashes,
        )

    @property
    def proof_rows(self) -> tuple[Conversation | Completion, ...]:
        """Rows to prove the run on: those of validation, or of training where there are none."""
        rows = self.validation or self.training
        return tuple(
            Conversation(origin=row.origin, messages=(*row.messages, *row.chosen), tools=row.tools)
            if isinstance(row, Preference)
            else row
            for row in rows[:NUM_PROOF_ROWS]
        )


NUM_PROOF_ROWS = 64
"""Enough for a mean, and seconds of work."""


def encode_rows(
    encoder: Encoder, examples: Sequence[Example]
) -> tuple[EncodedExample, ...]:
    """Encodes rows to learn replies from."""
    return tuple(
        each
        for row in examples
        if not isinstance(row, Preference)
        for each in encoder.encode(row)
    )


def encode_pairs(encoder: Encoder, examples: Sequence[Example]) -> tuple[EncodedPreference, ...]:
    """Encodes rows to learn preferences from."""
    return tuple(
        encoder.encode_preference(row) for row in examples if isinstance(row, Preference)
    )
