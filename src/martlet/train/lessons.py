"""The rows of a run: read, encoded, and split for validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from martlet.errors import InputError, ParameterError
from martlet.text.tokenizer import Tokenizer
from martlet.train.config import DataConfig, Method, TooLong, TrainConfig
from martlet.train.encoding import EncodedExample, EncodedPreference, Encoder
from martlet.train.example import Conversation, Example, Preference
from martlet.train.fitting import Loss, fit_rows
from martlet.train.sources import Source, read_source
from martlet.train.split import overlap, split_off

MAX_LENGTH = 4096
"""Tokens of a row unless the user says otherwise; models allow 128,000, and memory does not."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of one purpose, and what they became."""

    examples: tuple[Example, ...] = ()
    """As they are learned, those that are too long cut or left out."""
    sequences: tuple[EncodedExample, ...] = ()
    """Of rows to learn replies from."""
    pairs: tuple[EncodedPreference, ...] = ()
    """Of rows to learn preferences from."""
    losses: tuple[Loss, ...] = ()
    """What was left out of rows that are too long."""

    @classmethod
    def of(
        cls, examples: Sequence[Example], encoder: Encoder, *, max_length: int, too_long: TooLong
    ) -> "Split":
        """Encodes rows.

        Raises:
            InputError: If one is too long and may not be, or none is left, or one has nothing to
                learn, or a reply that does not end.
        """
        fitted = fit_rows(examples, encoder, max_length=max_length, too_long=too_long)
        sequences = tuple(each for each in fitted.encoded if isinstance(each, EncodedExample))
        pairs = tuple(each for each in fitted.encoded if isinstance(each, EncodedPreference))
        for each in (*sequences, *map(_better, pairs)):
            _check(each)
        if examples and not fitted.examples:
            raise InputError(
                f"no row is left: all {len(examples)} are longer than {max_length} tokens; "
                "--max-length allows more where the model does"
            )
        return cls(examples=fitted.examples, sequences=sequences, pairs=pairs, losses=fitted.losses)

    def __bool__(self) -> bool:
        return bool(self.examples)

    def head(self, count: int) -> "Split":
        """The first examples, and what else comes of their rows; of pairs, the better replies."""
        origins = {row.origin for row in self.examples[:count]}
        examples = tuple(_scorable(row) for row in self.examples if row.origin in origins)
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
    training_sources: tuple[Source, ...]
    validation_sources: tuple[Source, ...]
    """Empty if validation rows were split off."""
    max_length: int
    """Tokens that a sequence may have."""

    @property
    def file_hashes(self) -> Mapping[str, str]:
        """SHA-256 of each file, by its name."""
        sources = (*self.training_sources, *self.validation_sources)
        return {source.name: source.data_hash for source in sources}

    @classmethod
    def read(
        cls, config: TrainConfig, tokenizer: Tokenizer, *, max_context_tokens: int
    ) -> "Lessons":
        """Reads the files of a run.

        Args:
            max_context_tokens: What the model allows.

        Raises:
            NotFoundError, InputError: If a file or a row cannot be used.
        """
        training_sources = tuple(_readable(name, config.rows) for name in config.data)
        validation_sources: tuple[Source, ...] = ()
        training = tuple(each for source in training_sources for each in source.examples)
        validation: tuple[Example, ...] = ()
        if (share := _share(config.rows.validation)) is not None:
            training, validation = split_off(training, share)
        elif config.rows.validation is not None:
            validation_sources = (_readable(config.rows.validation, config.rows),)
            validation = validation_sources[0].examples
            _check_overlap(training, validation)
        _check_method(config.tuner.method, (*training, *validation))
        max_length = config.rows.max_length or min(MAX_LENGTH, max_context_tokens)
        if max_length > max_context_tokens:
            raise ParameterError(
                f"max_length={max_length} is more than the model's {max_context_tokens} tokens",
                param="max_length",
            )
        encoder, too_long = Encoder(tokenizer), config.rows.too_long
        return cls(
            training=Split.of(training, encoder, max_length=max_length, too_long=too_long),
            validation=Split.of(validation, encoder, max_length=max_length, too_long=too_long),
            training_sources=training_sources,
            validation_sources=validation_sources,
            max_length=max_length,
        )


def _readable(name: str, config: DataConfig) -> Source:
    source = read_source(name, config)
    if source.faults:
        more = len(source.faults) - 1
        others = f" ({more} more rows cannot be read either: martlet check tells)" if more else ""
        raise InputError(f"{source.faults[0]}{others}")
    return source


def _share(validation: str | None) -> float | None:
    """A share of the training rows, if that is what is given."""
    try:
        share = float(validation or "")
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ParameterError(
            f"validation={validation} must be a file, or a share above 0 and below 1",
            param="validation",
        )
    return share


def _check(each: EncodedExample) -> None:
    if not any(each.is_target[1:]):
        raise InputError(f"{each.origin}: there is nothing to learn, its replies are empty")
    if not each.ends:
        raise InputError(
            f"{each.origin}: a reply does not end with a token at which serving stops, so the "
            "model would learn never to stop; use a chat template that writes one"
        )


def _check_overlap(training: Sequence[Example], validation: Sequence[Example]) -> None:
    known = overlap(training, validation)
    if known:
        raise InputError(
            f"{len(known)} of {len(validation)} validation rows ask what a training row asks, the "
            f"first is {known[0].origin}: they would measure memory; take them out of one of the "
            "files"
        )


def _check_method(method: Method, examples: Sequence[Example]) -> None:
    wanted = "chosen and rejected replies" if method == "dpo" else "replies"
    for each in examples:
        if isinstance(each, Preference) != (method == "dpo"):
            other = "sft" if method == "dpo" else "dpo"
            raise InputError(
                f"{each.origin}: --method {method} learns from {wanted}, and this row is for "
                f"--method {other}"
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
