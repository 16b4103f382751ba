"""The rows of a run: read, encoded, and split for validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from martlet.text.tokenizer import Tokenizer
from martlet.train.config import TrainConfig
from martlet.train.encoding import EncodedExample, EncodedPreference, Encoder
from martlet.train.example import Conversation, Example, Preference
from martlet.train.sources import read_source


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one purpose, and what they became."""

    examples: tuple[Example, ...] = ()
    sequences: tuple[EncodedExample, ...] = ()
    """Of rows to learn replies from."""
    pairs: tuple[EncodedPreference, ...] = ()
    """Of rows to learn preferences from."""

    @classmethod
    def of(cls, examples: Sequence[Example], encoder: Encoder) -> "Split":
        """Encodes rows."""
        return cls(
            examples=tuple(examples),
            sequences=tuple(
                each
                for row in examples
                if not isinstance(row, Preference)
                for each in encoder.encode(row)
            ),
            pairs=tuple(
                encoder.encode_preference(row) for row in examples if isinstance(row, Preference)
            ),
        )

    def __bool__(self) -> bool:
        return bool(self.examples)

    def head(self, count: int) -> "Split":
        """The first rows of it; of pairs, the better replies as rows to be scored."""
        examples = tuple(_scorable(row) for row in self.examples[:count])
        origins = {row.origin for row in examples}
        better = tuple(_better(pair) for pair in self.pairs)
        return Split(
            examples=examples,
            sequences=tuple(each for each in (*self.sequences, *better) if each.origin in origins),
        )


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a run learns from and is measured on."""

    training: Split
    validation: Split
    file_hashes: Mapping[str, str]
    """SHA-256 of each file, by its name."""

    @classmethod
    def read(cls, config: TrainConfig, tokenizer: Tokenizer) -> "Lessons":
        """Reads the files of a run.

        Raises:
            NotFoundError, InputError: If a file or a row cannot be used.
        """
        encoder = Encoder(tokenizer)
        training: list[Example] = []
        hashes = {}
        for path in config.data:
            examples, hashes[path] = read_source(path)
            training += examples
        validation: list[Example] = []
        if config.rows.validation is not None:
            validation, hashes[config.rows.validation] = read_source(config.rows.validation)
        return cls(
            training=Split.of(training, encoder),
            validation=Split.of(validation, encoder),
            file_hashes=hashes,
        )


def _scorable(row: Example) -> Example:
    """A preference as the conversation that its better reply makes, of which that one counts."""
    if not isinstance(row, Preference):
        return row
    messages = (*row.messages, *row.chosen)
    return Conversation(
        origin=row.origin,
        messages=messages,
        tools=row.tools,
        untrained=frozenset(range(len(messages) - 1)),
    )


def _better(pair: EncodedPreference) -> EncodedExample:
    return EncodedExample(
        origin=pair.origin,
        token_ids=(*pair.prompt_ids, *pair.chosen_ids),
        is_target=(*(False for _ in pair.prompt_ids), *(True for _ in pair.chosen_ids)),
        ends=pair.ends,
    )
