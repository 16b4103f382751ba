"""Tokenizers of each family: small ones made here, and the real ones where they are at hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as BackendTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from martlet.text.tokenizer import Tokenizer
from support.shared import SHARED, needs_shared

CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REAL_FAMILIES = ("llama2", "llama3-published", "qwen2", "yuan2")
ALL_FAMILIES = [
    "byte-level",
    "byte-fallback",
    "word-piece",
    *(pytest.param(name, marks=needs_shared) for name in REAL_FAMILIES),
]


class Pair(NamedTuple):
    """Our tokenizer and the one of transformers inside it, as the oracle."""

    tokenizer: Tokenizer
    inner: PreTrainedTokenizerBase


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with a few merges, ChatML and no BOS, as Qwen has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: index for index, char in enumerate(alphabet)}
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ċ", "Ċ"), ("ä", "¸")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = BackendTokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT_ML,
    )
    tokenizer.add_tokens(["<|思考|>"])
    return _saved(tokenizer, tmp_path_factory.mktemp("byte_level"))


@pytest.fixture(scope="session")
def byte_fallback_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BPE with byte fallback and a BOS in front, as Llama 2 has."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *map(chr, range(33, 127)), "世", "界", "é"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("t", "h"), ("▁", "th")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = BackendTokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return _saved(tokenizer, tmp_path_factory.mktemp("byte_fallback"))


@pytest.fixture(scope="session")
def word_piece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose decoder we do not read: the streaming decode goes through it."""
    tokens = ["[UNK]", "[EOS]", *"abcde世界好,.", *(f"##{char}" for char in "abcde世界好")]
    backend = BackendTokenizer(
        models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), behavior="removed")
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="[EOS]", unk_token="[UNK]"
    )
    return _saved(tokenizer, tmp_path_factory.mktemp("word_piece"))


@pytest.fixture(scope="session")
def llama3_published_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama 3 as it is published: a BOS in front of raw text, and one in the template."""
    folder = tmp_path_factory.mktemp("llama3")
    backend = BackendTokenizer.from_file(str(SHARED / "tokenizers/llama3/tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 128000)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        clean_up_tokenization_spaces=True,
    )
    shutil.copy(SHARED / "templates/llama-3.jinja", folder / "chat_template.jinja")
    return _saved(tokenizer, folder)


@pytest.fixture(scope="session")
def load_pair(request: pytest.FixtureRequest) -> Callable[[str], Pair]:
    """Loads a tokenizer once a session; those with a hyphen in their name are made here."""
    name_to_pair: dict[str, Pair] = {}

    def load(name: str) -> Pair:
        if name not in name_to_pair:
            folder = (
                request.getfixturevalue(f"{name.replace('-', '_')}_folder")
                if "-" in name
                else SHARED / "tokenizers" / name
            )
            inner = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            name_to_pair[name] = Pair(Tokenizer(inner, folder=folder), inner)
        return name_to_pair[name]

    return load


@pytest.fixture(scope="session", params=ALL_FAMILIES)
def pair(request: pytest.FixtureRequest, load_pair: Callable[[str], Pair]) -> Pair:
    """Each family in turn."""
    return load_pair(request.param)


@pytest.fixture(scope="session")
def byte_level(load_pair: Callable[[str], Pair]) -> Tokenizer:
    return load_pair("byte-level").tokenizer


@pytest.fixture(scope="session")
def byte_fallback(load_pair: Callable[[str], Pair]) -> Tokenizer:
    return load_pair("byte-fallback").tokenizer


@pytest.fixture(scope="session")
def qwen2(load_pair: Callable[[str], Pair]) -> Tokenizer:
    return load_pair("qwen2").tokenizer


@pytest.fixture(scope="session")
def llama3(load_pair: Callable[[str], Pair]) -> Tokenizer:
    return load_pair("llama3-published").tokenizer


def _saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    return folder
