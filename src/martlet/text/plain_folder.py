"""The tokenizer of most folders, read from `tokenizer.json` without transformers.

Importing transformers reads the names in all of its model files, 0.4 s before the first word, and
its `AutoTokenizer` reads them once more. What it then makes of a usual folder is little. That is
written out here; any other folder is left to transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from martlet.text.plain import PlainTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MODEL_TYPES = ("llama", "qwen2", "qwen3")
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Two names of the class that takes everything from tokenizer.json."""
_QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
"""Two names of the class that takes vocabulary, merges and post-processor from tokenizer.json."""
_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_QWEN2_DEFAULTS = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2's tokenizer cuts a text before it merges."""
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_WITHOUT_EFFECT = frozenset(
    {
        "add_bos_token",  # the post-processor of tokenizer.json decides
        "add_eos_token",
        "backend",
        "clean_up_tokenization_spaces",  # not done to byte pairs
        "errors",
        "is_local",
        "local_files_only",
        "model_max_length",
        "name_or_path",
        "padding_side",
        "tokenizer_class",
    }
)
_LEFT_ALONE = {"add_prefix_space": False, "split_special_tokens": False}
"""Settings that a folder may write out, but not change."""
_READ = frozenset({*_NAMES, *_EXTRA, "added_tokens_decoder", "chat_template"})


def read_plain(folder: Path) -> PlainTokenizer | None:
    """Reads a folder's tokenizer.

    Returns:
        What encodes, decodes and renders as the tokenizer that `AutoTokenizer` loads; None if the
        folder holds anything unusual, or what cannot be read.
    """
    config = _read(folder / "tokenizer_config.json")
    class_name = _class_that_auto_takes(_read(folder / "config.json"), config)
    if class_name is None or not _is_usual(config) or _has_other_files(folder, config):
        return None
    backend = _backend(folder)
    if backend is None or not _holds(backend, config):
        return None
    is_qwen2 = class_name in _QWEN2_CLASSES
    tokens = {**(_QWEN2_DEFAULTS if is_qwen2 else {}), **_named_tokens(config)}
    named = {name: token for name in _NAMES if (token := tokens.get(name)) is not None}
    if not {*named.values(), *_extra_tokens(config)} <= set(_special_tokens(backend)):
        return None
    if is_qwen2 and not _become_qwen2(backend):
        return None
    _frame_with_nothing(backend)
    return PlainTokenizer(
        backend, special_tokens_map=named, chat_template=_chat_template(folder, config)
    )


def _class_that_auto_takes(config: Mapping[str, Any], own_config: Mapping[str, Any]) -> str | None:
    """Of those that are written out here; None if `AutoTokenizer` may take another."""
    model_type, named = config.get("model_type"), own_config.get("tokenizer_class")
    if "auto_map" in config or model_type not in _MODEL_TYPES:
        return None
    if model_type == "qwen2" and named in (*_PLAIN_CLASSES, *_QWEN2_CLASSES):
        return _QWEN2_CLASSES[0]  # it does not believe such a folder
    if named in _PLAIN_CLASSES:
        return _PLAIN_CLASSES[0]
    return _QWEN2_CLASSES[0] if model_type == "qwen3" and named in _QWEN2_CLASSES else None


def _is_usual(own_config: Mapping[str, Any]) -> bool:
    settings = own_config.keys() - _READ - _WITHOUT_EFFECT
    return (
        all(name in _LEFT_ALONE and own_config[name] == _LEFT_ALONE[name] for name in settings)
        and all(isinstance(own_config.get(name) or [], list) for name in _EXTRA)
        and isinstance(own_config.get("chat_template") or "", str)
    )


def _has_other_files(folder: Path, own_config: Mapping[str, Any]) -> bool:
    """Whether transformers would look at more than is read here."""
    names = ["additional_chat_templates"]
    if "added_tokens_decoder" not in own_config:
        names += ["special_tokens_map.json", "added_tokens.json"]
    return any((folder / name).exists() for name in names)


def _backend(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder if it merges pairs and neither cuts nor fills up what it reads."""
    from tokenizers import Tokenizer, models

    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises nothing more exact; transformers says what is wrong
        return None
    is_whole = backend.truncation is None and backend.padding is None
    return backend if is_whole and isinstance(backend.model, models.BPE) else None


def _holds(backend: Tokenizer, own_config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer has the added tokens that its configuration lists, or it lists none."""
    added = {i: token.__getstate__() for i, token in backend.get_added_tokens_decoder().items()}
    listed = own_config.get("added_tokens_decoder", {})
    return all(added.get(int(token_id)) == token for token_id, token in listed.items())


def _named_tokens(own_config: Mapping[str, Any]) -> dict[str, str | None]:
    return {name: _content(own_config[name]) for name in _NAMES if name in own_config}


def _extra_tokens(own_config: Mapping[str, Any]) -> Iterator[str | None]:
    for name in _EXTRA:
        yield from map(_content, own_config.get(name) or ())


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _special_tokens(backend: Tokenizer) -> Iterator[str]:
    """Those that are special and nothing else, as transformers adds them."""
    for token in backend.get_added_tokens_decoder().values():
        if token.special and not (
            token.lstrip or token.rstrip or token.single_word or token.normalized
        ):
            yield token.content


def _become_qwen2(backend: Tokenizer) -> bool:
    """Gives a tokenizer the parts that Qwen2's class makes itself.

    Returns:
        Whether the added tokens have the ids that the class would give them.
    """
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    num_merged = backend.get_vocab_size(with_added_tokens=False)
    behind = sorted(i for i in backend.get_added_tokens_decoder() if i >= num_merged)
    if behind != list(range(num_merged, num_merged + len(behind))):
        return False
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    model = backend.model
    model.dropout = model.unk_token = None
    model.continuing_subword_prefix = model.end_of_word_suffix = ""
    model.fuse_unk = model.byte_fallback = model.ignore_merges = False
    return True


def _frame_with_nothing(backend: Tokenizer) -> None:
    """Has a tokenizer without a post-processor add no token, as transformers writes it."""
    from tokenizers.processors import TemplateProcessing

    if backend.post_processor is None:
        backend.post_processor = TemplateProcessing(
            single="$A:0", pair="$A:0 $B:1", special_tokens=[]
        )


def _chat_template(folder: Path, own_config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template: str | None = own_config.get("chat_template")
    return template


def _read(path: Path) -> dict[str, Any]:
    """Empty if the file cannot be read: what is wrong with it, transformers says."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
