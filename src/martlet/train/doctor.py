"""What is wrong with training rows, found before anything is trained: each fault with its rows."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from martlet.text.tokenizer import Tokenizer
from martlet.train.encoding import EncodedExample, Encoder
from martlet.train.example import Completion, Conversation, Example, Origin, Preference
from martlet.train.sources import Source
from martlet.train.split import asked, overlap

_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")
_SHORTEST_MARK = 3
"""Special tokens of fewer characters, such as a line's end, are ordinary text too."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault, and where it is."""

    kind: str
    """In a few words."""
    stops: bool
    """Whether training with it would go wrong; else it is worth a look."""
    origins: tuple[Origin, ...]
    advice: str
    detail: str = ""
    """Of the first place."""
    is_length: bool = False
    """Whether it is that rows are too long, which the over-length policy may allow."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What there is to learn from, and what is wrong with it."""

    num_rows: int
    num_examples: int
    num_tokens: int
    num_targets: int
    """Tokens that count for the loss."""
    lengths: tuple[int, ...]
    """Of every sequence, ascending."""
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing stops a training."""
        return not any(each.stops for each in self.findings)

    def length_at(self, share: float) -> int:
        """The length that this share of the sequences does not exceed."""
        if not self.lengths:
            return 0
        return self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))]


def examine(
    training: Sequence[Source],
    validation: Sequence[Source],
    tokenizer: Tokenizer,
    *,
    max_length: int,
) -> Diagnosis:
    """Looks at every row as training would see it.

    Args:
        max_length: Tokens that a sequence may have.

    Raises:
        TemplateError: If the model has no chat template and rows need one.
    """
    sources = (*training, *validation)
    rows = [each for source in sources for each in source.examples]
    encoder = Encoder(tokenizer)
    encoded = [(row, _encode(encoder, row)) for row in rows]
    sequences = [each for _, made in encoded for each in made]
    learned = [each for source in training for each in source.examples]
    measured = [each for source in validation for each in source.examples]
    findings = [
        *_unusable(sources),
        *_in_sequences(sequences, tokenizer, max_length),
        *_in_texts(rows, tokenizer),
        *_repeated(learned),
        *_leaked(learned, measured),
    ]
    return Diagnosis(
        num_rows=sum(len(source.rows) for source in sources),
        num_examples=len(rows),
        num_tokens=sum(len(each.token_ids) for each in sequences),
        num_targets=sum(each.num_targets for each in sequences),
        lengths=tuple(sorted(len(each.token_ids) for each in sequences)),
        findings=tuple(findings),
    )


def _encode(encoder: Encoder, row: Example) -> tuple[EncodedExample, ...]:
    if not isinstance(row, Preference):
        return encoder.encode(row)
    pair = encoder.encode_preference(row)
    replies = (pair.chosen_ids, pair.rejected_ids)
    return tuple(
        EncodedExample(
            origin=row.origin,
            token_ids=(*pair.prompt_ids, *reply),
            is_target=(*(False for _ in pair.prompt_ids), *(True for _ in reply)),
            ends=pair.ends,
        )
        for reply in replies
    )


def _finding(
    kind: str,
    origins: Iterable[Origin],
    advice: str,
    *,
    stops: bool = True,
    detail: str = "",
    is_length: bool = False,
) -> Iterator[Finding]:
    """A finding, if it is found anywhere."""
    places = tuple(dict.fromkeys(origins))
    if places:
        yield Finding(
            kind=kind,
            stops=stops,
            origins=places,
            advice=advice,
            detail=detail,
            is_length=is_length,
        )


def _unusable(sources: Sequence[Source]) -> Iterator[Finding]:
    faults = [fault for source in sources for fault in source.faults]
    yield from _finding(
        "cannot be read",
        (Origin(path=fault.path, row=fault.line) for fault in faults),
        "mend these rows, or leave them out with --fix",
        detail=faults[0].reason if faults else "",
    )


def _in_sequences(
    sequences: Sequence[EncodedExample], tokenizer: Tokenizer, max_length: int
) -> Iterator[Finding]:
    long = [each for each in sequences if len(each.token_ids) > max_length]
    num_lost = sum(len(each.token_ids) - max_length for each in long)
    yield from _finding(
        f"longer than {max_length} tokens",
        (each.origin for each in long),
        "--max-length allows more; train --too-long skip or truncate-left says what else to do",
        detail=f"{num_lost:,} tokens would be lost",
        is_length=True,
    )
    stop_ids = frozenset(tokenizer.stop_ids)
    yield from _finding(
        "nothing to learn",
        (
            each.origin
            for each in sequences
            if not any(
                is_target and token_id not in stop_ids
                for token_id, is_target in zip(each.token_ids, each.is_target, strict=True)
            )
        ),
        "replies are empty, or left out by their weights",
    )
    yield from _finding(
        "a reply does not end",
        (each.origin for each in sequences if not each.ends),
        "the model would learn never to stop: use a chat template that writes an end token",
    )


def _in_texts(rows: Sequence[Example], tokenizer: Tokenizer) -> Iterator[Finding]:
    marks = [each for each in tokenizer.special_texts if len(each) >= _SHORTEST_MARK]
    pattern = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
    # Raw text is without a template, and may write such tokens itself.
    turns = [row for row in rows if not isinstance(row, Completion)]
    marked = [(row, found[0]) for row in turns if (found := pattern.search(_text(row)))]
    yield from _finding(
        "special tokens inside texts",
        (row.origin for row, _ in marked),
        "they would end or begin turns: take them out of the texts",
        detail=marked[0][1] if marked else "",
    )
    unfilled = [(row, found[0]) for row in rows if (found := _PLACEHOLDER.search(_text(row)))]
    yield from _finding(
        "unfilled placeholders",
        (row.origin for row, _ in unfilled),
        "put in what they stand for, unless the model is to say them",
        stops=False,
        detail=unfilled[0][1] if unfilled else "",
    )


def _repeated(rows: Sequence[Example]) -> Iterator[Finding]:
    by_text: dict[str, list[Origin]] = defaultdict(list)
    by_prompt: dict[str, set[str]] = defaultdict(set)
    prompt_to_origins: dict[str, list[Origin]] = defaultdict(list)
    for row in rows:
        text = _text(row)
        by_text[text].append(row.origin)
        by_prompt[asked(row)].add(text)
        prompt_to_origins[asked(row)].append(row.origin)
    yield from _finding(
        "duplicates",
        (origin for places in by_text.values() for origin in places[1:]),
        "learned as often as they stand there; --fix keeps one of each",
        stops=False,
    )
    yield from _finding(
        "one question, several replies",
        (
            origin
            for prompt, texts in by_prompt.items()
            if len(texts) > 1
            for origin in prompt_to_origins[prompt]
        ),
        "fine if they are all right",
        stops=False,
    )


def _leaked(training: Sequence[Example], validation: Sequence[Example]) -> Iterator[Finding]:
    yield from _finding(
        "validation rows that are also learned",
        (each.origin for each in overlap(training, validation)),
        "they would measure memory: take them out of one of the files",
    )


def _text(row: Example) -> str:
    """Every text of a row."""
    if isinstance(row, Completion):
        return f"{row.prompt}\n{row.completion}"
    turns = row.messages
    if not isinstance(row, Conversation):
        turns = (*turns, *row.chosen, *row.rejected)
    return "\n".join(str(turn.get("content") or "") for turn in turns)
