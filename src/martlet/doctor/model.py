"""A model's folder: weights, tokenizer, chat template, vocabulary, and room for all of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from martlet.backends.opened import open_model
from martlet.backends.options import BackendOptions
from martlet.doctor.finding import Finding
from martlet.doctor.mending import fetch_tokenizer, mend
from martlet.errors import MartletError, ModelError, ResourceError, TemplateError
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.memory import GIB
from martlet.models.rejected import refuse_rejected
from martlet.models.resolve import resolve
from martlet.text.messages import Message
from martlet.text.template import read_template
from martlet.text.tokenizer import Tokenizer

_GREETING: tuple[Message, ...] = ({"role": "user", "content": "Hello"},)


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model whose files can be read."""

    name: str
    """As the user named it."""
    folder: ModelFolder
    tokenizer: Tokenizer
    chat_template: Path | None = None
    """In place of the folder's own."""


class ModelExamination:
    """Looks at one model, and keeps what others are compared with.

    Args:
        name: As the user named it; nothing is downloaded.
        chat_template: A Jinja file in place of the model's own template.
    """

    model: KnownModel | None = None
    """None until its files were read, and if they cannot be."""

    def __init__(self, name: str, chat_template: Path | None = None) -> None:
        self._name = name
        self._chat_template = chat_template

    def findings(self) -> Iterator[Finding]:
        """Every finding, the files first: what rests on a fault is left out."""
        try:
            folder = open_folder(resolve(self._name, may_download=False))
            refuse_rejected(folder.path)
        except MartletError as error:
            yield Finding.fault("model", error, remedy=mend(self._name, error))
            return
        yield Finding.ok("model", _described(folder))
        given = None if self._chat_template is None else read_template(self._chat_template)
        try:
            tokenizer = Tokenizer.load(folder.path, chat_template=given)
        except MartletError as error:
            yield Finding.fault("tokenizer", error, remedy=fetch_tokenizer(folder))
            return
        vocabulary = examine_vocabulary(folder, tokenizer)
        yield vocabulary
        yield examine_template(tokenizer)
        yield examine_stops(tokenizer)
        if vocabulary.state == "ok":  # what is loaded to see whether it fits has the same fault
            yield _examine_room(self._name, folder)
        self.model = KnownModel(
            name=self._name,
            folder=folder,
            tokenizer=tokenizer,
            chat_template=self._chat_template,
        )


def examine_vocabulary(folder: ModelFolder, tokenizer: Tokenizer) -> Finding:
    """Whether the embedding has a row for each of the tokenizer's ids."""
    rows = folder.num_embeddings
    if rows is None:
        return Finding.ok("tokenizer", f"{tokenizer.num_tokens:,} tokens")
    try:
        tokenizer.check_against_embedding(rows)
    except ModelError as error:
        return Finding.fault("tokenizer", error, remedy=fetch_tokenizer(folder))
    return Finding.ok("tokenizer", f"{tokenizer.num_tokens:,} tokens, embedding {rows:,} rows")


def examine_template(tokenizer: Tokenizer) -> Finding:
    """Whether the chat template renders, and with one BOS token at most."""
    own_template = f"martlet chat {quote(str(tokenizer.folder))} --chat-template FILE"
    if not tokenizer.has_template:
        lacking = "none: conversations cannot be asked, raw text can"
        return Finding.warning("template", lacking, remedy=own_template)
    try:
        text, token_ids = tokenizer.render(_GREETING)
    except TemplateError as error:
        return Finding.fault("template", error, remedy=own_template)
    return _examine_bos(tokenizer, text) or Finding.ok(
        "template", f"{tokenizer.template_hash}; a greeting has {len(token_ids)} tokens"
    )


def examine_stops(tokenizer: Tokenizer) -> Finding:
    """Whether something ends a reply."""
    stops = {
        tokenizer.decode([token_id], skip_special_tokens=False): ", ".join(sources)
        for token_id, sources in tokenizer.stop_id_sources.items()
    }
    if not stops:
        return Finding.warning(
            "stop tokens",
            "none: config, tokenizer and template name no end, so replies run to --max-tokens",
            remedy=f"martlet generate DATA --model {quote(str(tokenizer.folder))} "
            "--stop TEXT --out NEW",
        )
    return Finding.ok(
        "stop tokens", "; ".join(f"{text} ({sources})" for text, sources in stops.items())
    )


def _examine_bos(tokenizer: Tokenizer, text: str) -> Finding | None:
    """What becomes of the BOS token in a rendered conversation, where a template writes one."""
    if tokenizer.bos_id is None:
        return None
    bos = tokenizer.decode([tokenizer.bos_id], skip_special_tokens=False)
    if bos and text.startswith(2 * bos):
        return Finding.warning(
            "template",
            f"it writes two BOS tokens ({bos}); Martlet drops one, other engines and trainers "
            "read both",
            remedy=_drop_bos(tokenizer, bos),
        )
    adds_one = tokenizer.encode("a", add_special_tokens=True)[:1] == (tokenizer.bos_id,)
    if bos and text.startswith(bos) and adds_one:
        return Finding.ok(
            "template",
            f"{tokenizer.template_hash}; it writes {bos} and the tokenizer adds it to raw text: "
            "Martlet keeps one, programs that tokenize rendered text by themselves get two BOS",
        )
    return None


def _drop_bos(tokenizer: Tokenizer, bos: str) -> str:
    """A command that takes one of two BOS tokens out of the template's file."""
    files = (tokenizer.folder / name for name in ("chat_template.jinja", "tokenizer_config.json"))
    file = next((each for each in files if each.is_file()), tokenizer.folder)
    variable = r"{{-\? *bos_token *-\?}}"
    written = variable if "bos_token" in (tokenizer.template or "") else _escaped(bos)
    return f"sed -i '0,/{written}/s///' {quote(str(file))}"


def _escaped(text: str) -> str:
    """For a basic regular expression of sed."""
    return "".join(f"\\{each}" if each in r"\/.*[]^$" else each for each in text)


def _examine_room(name: str, folder: ModelFolder) -> Finding:
    """Whether weights, keys and values fit in memory, and all else that loading would refuse."""
    try:
        opened = open_model(str(folder.path), BackendOptions())
    except ResourceError as error:
        remedy = f"martlet quantize {quote(name)} --bits 4 --out SMALLER"
        return Finding.fault("room", error, remedy=remedy)
    except MartletError as error:
        return Finding.fault("room", error, remedy=f"martlet info {quote(name)}")
    memory, dtype = opened.memory, str(opened.dtype).removeprefix("torch.")
    used = (
        f"weights {memory.weights_bytes / GIB:.2f} GiB in {dtype}, "
        f"keys and values {memory.pool_bytes / GIB:.2f} GiB for {memory.num_tokens:,} tokens"
    )
    if memory.max_context_tokens < memory.asked_context_tokens:
        return Finding.warning(
            "room",
            f"{used}: of the context of {memory.asked_context_tokens:,} tokens "
            f"{memory.max_context_tokens:,} fit",
            remedy=f"martlet quantize {quote(name)} --bits 4 --out SMALLER",
        )
    return Finding.ok("room", used)


def _described(folder: ModelFolder) -> str:
    kind = ", ".join(folder.architectures) or "no architecture named"
    stored = folder.quantization_method or "not quantised"
    return (
        f"{kind}, {folder.num_parameters:,} values in {len(folder.shards)} whole "
        f"{'file' if len(folder.shards) == 1 else 'files'}, {stored}"
    )
