"""The highest rank that a vLLM server takes, which its API does not say by itself.

With `VLLM_SERVER_DEV_MODE=1` it answers `/server_info`; on this machine its command line tells.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from martlet.backends.openai.address import ServerAddress

_DEFAULT_RANK = 16
"""Of `vllm serve` without `--max-lora-rank`."""
_DEFAULT_PORT = 8000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROCESSES = Path("/proc")


def max_lora_rank(address: ServerAddress, client: httpx.Client) -> int | None:
    """The limit of the server at an address; None if neither it nor its command line tells."""
    told = _rank_told(address, client)
    if told is not None or address.host not in _LOOPBACK:
        return told
    port = urlsplit(address.base_url).port or _DEFAULT_PORT
    return next((_rank_of(words) for words in _commands() if _serves(words, port)), None)


def _rank_told(address: ServerAddress, client: httpx.Client) -> int | None:
    try:
        answer = client.get(f"{address.root_url}/server_info", params={"config_format": "json"})
        content = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    match content:
        case {"vllm_config": {"lora_config": {"max_lora_rank": int(rank)}}}:
            return rank
    return None


def _commands() -> Iterator[list[str]]:
    """The command lines of the processes that this user may look at."""
    for path in _PROCESSES.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile
        yield [part for word in words for part in word.split("=", 1)]


def _serves(words: list[str], port: int) -> bool:
    is_vllm = any(Path(word).name == "vllm" for word in words[:2]) and "serve" in words
    return is_vllm and _number_behind("--port", words, _DEFAULT_PORT) == port


def _rank_of(words: list[str]) -> int:
    return _number_behind("--max-lora-rank", words, _DEFAULT_RANK)


def _number_behind(option: str, words: list[str], default: int) -> int:
    place = words.index(option) + 1 if option in words else len(words)
    return int(words[place]) if place < len(words) and words[place].isdecimal() else default
