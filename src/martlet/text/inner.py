"""The tokenizer that a folder holds, as `AutoTokenizer` would load it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from martlet.text.plain import PlainTokenizer
from martlet.text.plain_folder import read_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

InnerTokenizer: TypeAlias = Union[PlainTokenizer, "PreTrainedTokenizerBase"]


def load_inner(folder: Path, *, trust_remote_code: bool) -> InnerTokenizer:
    """Loads the tokenizer in a folder; nothing is downloaded.

    Raises:
        Exception: Whatever transformers raises if it cannot; each kind has its own ways to fail.
    """
    plain = read_plain(folder)
    if plain is not None:
        return plain
    from transformers import AutoTokenizer

    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    return loaded
