"""A server: whether it answers, and reads and serves what the model and the adapters are."""

import os
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

import httpx

from martlet.backends.openai.address import ServerAddress
from martlet.backends.openai.asking import ask_json
from martlet.backends.openai.load import KEY_VARIABLE
from martlet.backends.openai.parity import check_parity
from martlet.backends.openai.rendering import RendersThere
from martlet.backends.openai.server import Server, look_at
from martlet.backends.vllm.command import LORA_RANKS
from martlet.doctor.adapter import KnownAdapter
from martlet.doctor.finding import Finding
from martlet.doctor.lora_limit import max_lora_rank
from martlet.doctor.model import KnownModel
from martlet.errors import (
    AdapterError,
    AuthenticationError,
    MartletError,
    NotFoundError,
    ParameterError,
    TemplateError,
)

Cards = Mapping[str, Mapping[str, object]]
"""What a server says of each model that it answers for, by its name."""

_TIMEOUT_S = 5.0
_HELLO = [{"role": "user", "content": "Hello"}]


def examine_server(
    url: str, *, model: KnownModel | None, adapters: Sequence[KnownAdapter]
) -> Iterator[Finding]:
    """Looks at a server, and compares it with a model and its adapters.

    Args:
        url: With its `/v1`; a name behind `#` says which of its models is meant.
        model: None compares nothing.
        adapters: That it should serve by their names.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(headers=headers, timeout=_TIMEOUT_S) as client:
        try:
            server = look_at(ServerAddress.parse(url, None), client)
        except MartletError as error:
            yield Finding.fault("server", error, remedy=_remedy_of_look(url, model, error))
            return
        yield Finding.ok("server", _described(server))
        if model is not None:
            yield _examine_parity(server, model, client)
        served = _served(server, client)
        for adapter in adapters:
            yield _examine_adapter(server, adapter, served, client)


def _examine_parity(server: Server, model: KnownModel, client: httpx.Client) -> Finding:
    """Whether the server turns the same words into the same token ids."""
    if not server.can.tokenizes:
        return Finding.ok("prompts", f"{server.described} has no /tokenize to compare token ids by")
    there = RendersThere(server, client)
    try:
        check_parity(model.tokenizer, there, server, has_own_template=False)
    except MartletError as error:
        remedy = _serve_again(server, model)
        return Finding.fault("prompts", _two_bos(model, there, server) or error, remedy=remedy)
    return Finding.ok(
        "prompts", f"{server.described} gives the token ids of {model.name}, template included"
    )


def _two_bos(model: KnownModel, there: RendersThere, server: Server) -> TemplateError | None:
    bos_id = model.tokenizer.bos_id
    try:
        token_ids = there.tokenize({"messages": _HELLO})
    except MartletError:
        return None
    if bos_id is None or token_ids[:2] != (bos_id, bos_id):
        return None
    return TemplateError(
        f"{server.described} begins a conversation with two BOS tokens ({bos_id}), and "
        f"{model.name} was made for one"
    )


def _examine_adapter(
    server: Server,
    adapter: KnownAdapter,
    served: Cards,
    client: httpx.Client,
) -> Finding:
    """Whether the server serves an adapter, this revision of it, or could."""
    subject = f"served {adapter.name}"
    card = served.get(adapter.name)
    if card is not None:
        return _examine_revision(server, adapter, card, served, subject=subject)
    rank, limit = adapter.highest_rank, _rank_limit(server, client)
    if limit is not None and rank > limit:
        error = AdapterError(
            f"adapter {adapter.name} has rank {rank}, and {server.described} takes {limit} at most"
        )
        return Finding.fault(subject, error, remedy=_serve_with(server, adapter, served))
    return Finding.warning(
        subject,
        f"{server.described} serves no {adapter.name!r}; it serves {', '.join(served)}",
        remedy=_serve_with(server, adapter, served),
    )


def _examine_revision(
    server: Server,
    adapter: KnownAdapter,
    card: Mapping[str, object],
    served: Cards,
    *,
    subject: str,
) -> Finding:
    match card:
        case {"adapter": {"revision": str(revision)}} if revision != adapter.tensors.revision:
            error = AdapterError(
                f"{server.described} serves revision {revision} of {adapter.name}, and "
                f"{adapter.folder.path} now holds {adapter.tensors.revision}"
            )
            return Finding.fault(subject, error, remedy=_serve_with(server, adapter, served))
        case {"adapter": {"revision": str(revision)}}:
            return Finding.ok(subject, f"revision {revision}, as in {adapter.folder.path}")
    return Finding.ok(subject, f"{server.described} serves it; of which revision it does not tell")


def _rank_limit(server: Server, client: httpx.Client) -> int | None:
    """The highest rank that can be loaded; None if any can, or nobody tells."""
    if server.kind != "vllm":
        return None
    return max_lora_rank(server.address, client) or max(LORA_RANKS)


def _served(server: Server, client: httpx.Client) -> Cards:
    """The cards of all that the server answers for, by name."""
    match ask_json(client, f"{server.address.base_url}/models", address=server.address):
        case {"data": list() as cards}:
            return {str(card["id"]): card for card in cards if isinstance(card, dict)}
    return {}


def _described(server: Server) -> str:
    version = f", version {server.version}," if server.version else ""
    context = server.max_context_tokens
    length = "context not told" if context is None else f"context {context:,} tokens"
    return f"{server.described}{version} answers for {server.model}, {length}"


def _remedy_of_look(url: str, model: KnownModel | None, error: MartletError) -> str:
    if isinstance(error, AuthenticationError):
        return f"export {KEY_VARIABLE}=KEY"
    if isinstance(error, NotFoundError | ParameterError):
        root, _, name = url.partition("#")
        if not root.rstrip("/").endswith("/v1"):
            whole = f"{root.rstrip('/')}/v1" + (f"#{name}" if name else "")
            return f"martlet doctor --url {quote(whole)}"
        return f"curl {quote(root)}/models"
    return f"martlet serve {quote(model.name if model else 'MODEL')}"


def _serve_again(server: Server, model: KnownModel) -> str:
    """Starts the server with the model's own tokenizer and template."""
    file = model.chat_template
    template = "" if file is None else f" --chat-template {quote(str(file))}"
    if server.kind == "vllm":
        folder = quote(str(model.folder.path))
        return f"vllm serve {folder} --served-model-name {quote(server.model)}{template}"
    return f"martlet serve {quote(model.name)}{template}"


def _serve_with(server: Server, adapter: KnownAdapter, served: Cards) -> str:
    """Starts the server with the adapter, which works where loading over HTTP is not allowed."""
    model = quote(str(served.get(server.model, {}).get("root") or server.model))
    if server.kind != "vllm":
        return f"martlet serve {model} {adapter.as_option}"
    folder = quote(str(adapter.folder.path))
    rank = next((each for each in LORA_RANKS if each >= adapter.highest_rank), None)
    if rank is None:
        return f"martlet merge {folder} --out MERGED"
    return (
        f"vllm serve {model} --served-model-name {quote(server.model)} --enable-lora "
        f"--max-lora-rank {rank} --lora-modules {adapter.name}={folder}"
    )
