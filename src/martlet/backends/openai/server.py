"""Looks at a server before a run: what kind it is, what it serves, what it cannot do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

from martlet.backends.openai.address import ServerAddress
from martlet.backends.openai.asking import ask_json
from martlet.backends.openai.capabilities import BY_KIND, Capabilities, ServerKind
from martlet.backends.openai.refusals import RequestRefusedError
from martlet.errors import NotFoundError, ParameterError

_OWNER_TO_KIND: Mapping[str, ServerKind] = {
    "martlet": "martlet",
    "vllm": "vllm",
    "llamacpp": "llama.cpp",
}
LOOK_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers, and the model of it that is asked."""

    address: ServerAddress
    model: str
    """As requests name it."""
    kind: ServerKind
    version: str
    """Empty if it tells none."""
    max_context_tokens: int | None
    """None if it does not tell."""
    can: Capabilities

    @property
    def name(self) -> str:
        """The server and its model, as `--model` takes it."""
        return f"{self.address.base_url}#{self.model}"

    @property
    def described(self) -> str:
        """The server, for messages."""
        kind = "the server" if self.kind == "unknown" else self.kind
        return f"{kind} at {self.address.base_url}"


def look_at(address: ServerAddress, client: httpx.Client) -> Server:
    """Asks a server what it is.

    Args:
        address: Where it is, and which model is meant.
        client: Carries the key.

    Raises:
        UnavailableError: If nothing answers.
        AuthenticationError: If it wants another key.
        NotFoundError: If it has no such model, or does not speak OpenAI's API.
        ParameterError: If it has several models and none was named.
    """
    cards = _model_cards(address, client)
    card = _chosen(cards, address)
    kind = _kind(card, address)
    return Server(
        address=address,
        model=str(card["id"]),
        kind=kind,
        version=_version(address, client) if kind in ("martlet", "vllm") else "",
        max_context_tokens=_context(card, kind, address, client),
        can=BY_KIND[kind],
    )


def _model_cards(address: ServerAddress, client: httpx.Client) -> list[Mapping[str, object]]:
    url = f"{address.base_url}/models"
    try:
        answer = ask_json(client, url, address=address)
    except RequestRefusedError as error:
        raise NotFoundError(f"{url}: {error}; the URL mostly ends with /v1") from error
    match answer:
        case {"data": Sequence() as data}:
            return [card for card in data if isinstance(card, Mapping) and "id" in card]
    raise NotFoundError(f"{url} holds no list of models; the URL mostly ends with /v1")


def _chosen(cards: Sequence[Mapping[str, object]], address: ServerAddress) -> Mapping[str, object]:
    named = {str(card["id"]): card for card in cards}
    if address.model is None:
        own = [card for card in cards if not card.get("parent")]  # adapters have one
        if len(own) == 1:
            return own[0]
        raise ParameterError(
            f"{address.base_url} serves {', '.join(named) or 'nothing'}; name one of them, as in "
            f"--model {address.base_url}#NAME"
        )
    if address.model in named:
        return named[address.model]
    raise NotFoundError(
        f"{address.base_url} serves no {address.model!r}; it serves {', '.join(named) or 'nothing'}"
    )


def _kind(card: Mapping[str, object], address: ServerAddress) -> ServerKind:
    if address.host.endswith(("openai.com", "openai.azure.com")):
        return "openai"
    return _OWNER_TO_KIND.get(str(card.get("owned_by")), "unknown")


def _context(
    card: Mapping[str, object], kind: ServerKind, address: ServerAddress, client: httpx.Client
) -> int | None:
    if kind == "llama.cpp":
        match _get(f"{address.root_url}/props", client):
            case {"default_generation_settings": {"n_ctx": int(tokens)}}:
                return tokens
        return None
    length = card.get("max_model_len")
    return length if isinstance(length, int) else None


def _version(address: ServerAddress, client: httpx.Client) -> str:
    match _get(f"{address.root_url}/version", client):
        case {"version": str(version)}:
            return version
    return ""


def _get(url: str, client: httpx.Client) -> object:
    """What may be there; nothing if it is not."""
    try:
        return client.get(url).json()
    except (httpx.HTTPError, ValueError):
        return None
