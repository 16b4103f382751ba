"""Whether a server applies an adapter: its replies must differ from the base's."""

import httpx

from martlet.backends.openai.server import Server
from martlet.errors import AdapterError, EngineError

_PROMPT = "The quick brown fox jumps over the lazy dog. 1 + 1 = 2, and \u4f60\u597d."


def prove_adapter(name: str, server: Server, client: httpx.Client) -> str:
    """Scores one text with an adapter and with its base.

    Returns:
        What was seen, in words.

    Raises:
        AdapterError: If both scores are the same in every digit.
        EngineError: If the server refuses.
    """
    base, adapted = (_score(model, server, client) for model in (server.model, name))
    largest = max(abs(a - b) for a, b in zip(base, adapted, strict=True))
    if largest == 0:
        raise AdapterError(
            f"adapter {name!r} changes nothing: {server.described} gives the same "
            f"log-probabilities with and without it to all {len(base)} tokens of a text"
        )
    return f"log-probabilities of {len(base)} tokens differ from the base's by up to {largest:.2g}"


def _score(model: str, server: Server, client: httpx.Client) -> list[float]:
    body = {
        "model": model,
        "prompt": _PROMPT,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }
    response = client.post(f"{server.address.base_url}/completions", json=body)
    if response.status_code != 200:
        raise EngineError(
            f"{server.described} does not answer as {model!r}: {response.status_code}, "
            f"{response.text[:500]}"
        )
    positions = response.json()["choices"][0]["prompt_logprobs"]
    return [next(iter(at.values()))["logprob"] for at in positions if at is not None]
