"""The token ids that end a reply, and the file or template that names each of them."""

import json
from collections.abc import Mapping
from pathlib import Path

from martlet.errors import ModelError


def gather_stop_ids(
    folder: Path, *, tokenizer_eos_id: int | None, end_of_turn_id: int | None
) -> Mapping[int, tuple[str, ...]]:
    """Collect a model's end tokens from everywhere that may name one.

    Folders often name too few in one place: a base model's configuration ends a document, the
    chat template ends a turn.

    Args:
        folder: The model's folder; its configuration files may be absent.
        tokenizer_eos_id: The tokenizer's own end token.
        end_of_turn_id: The token that the chat template puts behind an assistant's words.

    Returns:
        Token id to where it is named, the ids in ascending order.

    Raises:
        ModelError: If a configuration file cannot be read, or names something else than ids.
    """
    source_to_ids = {name: _read_eos_ids(folder / name) for name in _CONFIG_NAMES}
    source_to_ids["tokenizer"] = _present(tokenizer_eos_id)
    source_to_ids["chat template"] = _present(end_of_turn_id)
    id_to_sources: dict[int, tuple[str, ...]] = {}
    for source, token_ids in source_to_ids.items():
        for token_id in dict.fromkeys(token_ids):
            id_to_sources[token_id] = (*id_to_sources.get(token_id, ()), source)
    return dict(sorted(id_to_sources.items()))


_CONFIG_NAMES = ("generation_config.json", "config.json")


def _present(token_id: int | None) -> tuple[int, ...]:
    return () if token_id is None else (token_id,)


def _read_eos_ids(path: Path) -> tuple[int, ...]:
    if not path.is_file():
        return ()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}; fetch the file again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(config).__name__}")
    return _as_ids(config.get("eos_token_id"), path)


def _as_ids(value: object, path: Path) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in values):
        raise ModelError(f"eos_token_id in {path} must be one id or a list of ids, not {value!r}")
    return tuple(values)
