"""Which settings of two runs differ, those first that change answers most."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Card = Mapping[str, object]

_IDLE_WHEN_GREEDY = frozenset({"seed", "top_p", "top_k", "min_p", "n"})
"""Parameters without effect at temperature 0."""
_LATE = ("max_tokens", "seed")
"""Parameters that only cut replies or redraw them."""
_EMPTY = (None, "")
"""What a card says of a field that does not apply."""
_NUM_HASH_CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class ChangedSetting:
    """One setting that is not the same in both runs."""

    name: str
    first: str
    second: str
    effect: str
    """How it changes answers."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A setting of a card."""

    name: str
    effect: str
    identity: Callable[[Card], object]
    """What two runs must have in common to be alike in it."""
    shown: Callable[[Card], object]


def changed_settings(first: Card, second: Card) -> tuple[ChangedSetting, ...]:
    """The settings in which two run cards differ, in the order of how likely they explain flips.

    The order is that of how much of a reply each decides: the weights, what the model reads, how
    tokens are drawn, how answers are counted, how numbers are rounded. What has no effect is left
    out: the folder's name where the hash is the same, the seed where both runs are greedy.
    """
    kinds = [*_MODEL_KINDS, *_parameter_kinds(first, second), *_LAST_KINDS]
    return tuple(
        ChangedSetting(
            name=kind.name,
            first=_written(kind.shown(first)),
            second=_written(kind.shown(second)),
            effect=kind.effect,
        )
        for kind in kinds
        if kind.identity(first) != kind.identity(second)
    )


def _parameter_kinds(first: Card, second: Card) -> Iterator[_Kind]:
    values = [_section(card, "parameters") for card in (first, second)]
    names = list(dict.fromkeys([*values[0], *values[1]]))
    are_greedy = all(_value(card, "temperature") == 0 for card in (first, second))
    idle = _IDLE_WHEN_GREEDY if are_greedy else frozenset[str]()
    for name in sorted((each for each in names if each not in idle), key=_lateness):
        yield _parameter(name)


def _parameter(name: str) -> _Kind:
    effect = {
        "seed": "draws other replies of the same kind",
        "max_tokens": "cuts replies elsewhere",
    }.get(name, "draws tokens otherwise")

    def value(card: Card) -> object:
        return _value(card, name)

    return _Kind(name=name, effect=effect, identity=value, shown=value)


def _lateness(name: str) -> int:
    return _LATE.index(name) + 1 if name in _LATE else 0


def _value(card: Card, name: str) -> object:
    given = _section(card, "parameters").get(name)
    return given.get("value") if isinstance(given, Mapping) else None


def _section(card: Card, name: str) -> Mapping[str, object]:
    section = card.get(name)
    return section if isinstance(section, Mapping) else {}


def _of(section: str, *names: str) -> Callable[[Card], object]:
    """The first of some fields that is filled."""

    def read(card: Card) -> object:
        fields = _section(card, section)
        return next((fields[name] for name in names if fields.get(name) not in _EMPTY), None)

    return read


def _kind(name: str, effect: str, section: str, *names: str) -> _Kind:
    return _Kind(
        name=name, effect=effect, identity=_of(section, *names), shown=_of(section, *names)
    )


def _named_with_hash(name: str, hash_name: str) -> Callable[[Card], object]:
    """A folder's name with the beginning of its hash: two versions may lie in one folder."""

    def read(card: Card) -> object:
        fields = _section(card, "model")
        digest = str(fields.get(hash_name) or "")[:_NUM_HASH_CHARACTERS]
        named = fields.get(name)
        return f"{named} ({digest})" if digest and named else named

    return read


_MODEL_KINDS = (
    _Kind(
        name="model",
        effect="other weights",
        identity=_of("model", "model_hash", "model"),
        shown=_named_with_hash("model", "model_hash"),
    ),
    _Kind(
        name="adapter",
        effect="other weights",
        identity=_of("model", "adapter_hash", "adapter"),
        shown=_named_with_hash("adapter", "adapter_hash"),
    ),
    _kind("chat template", "words the prompt otherwise", "model", "template_hash"),
    _kind("prompt template", "words the prompt otherwise", "prompt_template", "sha256"),
    _kind("system prompt", "is part of each prompt", "options", "system"),
    _kind("raw text", "leaves the chat template out", "options", "is_raw"),
    _kind("tokenizer", "splits the words otherwise", "model", "tokenizer_hash"),
    _kind("too long prompts", "cuts long prompts", "options", "too_long"),
)
_LAST_KINDS = (
    _Kind(
        name="policy",
        effect="counts answers otherwise",
        identity=lambda card: card.get("policy"),
        shown=lambda card: card.get("policy"),
    ),
    _kind("backend", "rounds otherwise", "model", "backend"),
    _kind("dtype", "rounds otherwise", "model", "dtype"),
    *(
        _kind(f"version of {name}", "may round or word otherwise", "versions", name)
        for name in ("martlet", "transformers", "torch", "python")
    ),
    _kind("data", "asks other questions; those in both files are compared", "data", "sha256"),
)


def _written(value: object) -> str:
    match value:
        case None:
            return "none"
        case str():
            is_digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
            return value[:_NUM_HASH_CHARACTERS] if is_digest else value
        case _:
            return json.dumps(value, ensure_ascii=False)
