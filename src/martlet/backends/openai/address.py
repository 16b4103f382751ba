"""Where a server is, and which of its models is meant."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from martlet.backends.options import is_url
from martlet.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """A server that speaks OpenAI's API, and one of its models."""

    base_url: str
    """With its `/v1`, without a slash behind it."""
    model: str | None
    """None for the only model that the server has."""

    @classmethod
    def parse(cls, model: str, base_url: str | None) -> "ServerAddress":
        """Reads `http://host:8000/v1#name`, or a name beside a URL.

        Raises:
            ParameterError: If neither holds a URL, or both do.
        """
        if base_url is not None:
            if is_url(model):
                raise ParameterError(f"--model is a URL ({model}), so --base-url says it twice")
            return cls(base_url=_checked(base_url), model=model)
        if not is_url(model):
            raise ParameterError(
                f"the openai backend needs a server: give --model URL#{model}, such as "
                f"http://127.0.0.1:8000/v1#{model}, or --base-url URL"
            )
        url, _, name = model.partition("#")
        return cls(base_url=_checked(url), model=name or None)

    @property
    def root_url(self) -> str:
        """The URL without `/v1`, where servers keep what OpenAI does not have."""
        return self.base_url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """The host's name."""
        return urlsplit(self.base_url).hostname or ""


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname or parts.query or parts.fragment:
        raise ParameterError(
            f"a server's URL looks like http://127.0.0.1:8000/v1, not {url!r}; the model's name "
            "goes behind a #"
        )
    return url.rstrip("/")
