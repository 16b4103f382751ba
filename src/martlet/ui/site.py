"""What every tab of the page needs, and who is looking at it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr

from martlet.errors import MartletError
from martlet.ui.client import Client, Json
from martlet.ui.doctor import Doctor
from martlet.ui.store import Store

Words = Mapping[str, str]
"""Everything that the page says in one language."""
Updates = dict[Any, Any]
"""New values of components, by component."""
Choices = list[tuple[str, str]]
"""What a list shows, and what each entry stands for."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The parts that the tabs of one language share; but for the words, all languages do."""

    words: Words
    client: Client
    store: Store
    folder: Path
    """Where files lie until a browser has fetched them."""
    cookie: str
    """Holds the visitor's API key where the server wants one."""
    wants_key: bool
    """Whether it does."""
    doctor: Doctor | None
    """Looks at training rows; None where the server tunes nothing."""

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Shows a Martlet error in the page instead of raising it further."""
        try:
            yield
        except MartletError as error:
            raise self.refusal(error) from error

    def refusal(self, error: MartletError | str) -> gr.Error:
        """What the page shows of an error."""
        return gr.Error(str(error), title=self.words["error"], print_exception=False)

    def key_of(self, request: gr.Request) -> str | None:
        """The API key of whoever looks at the page."""
        return read_key(request.cookies, self.cookie)

    async def models(self, request: gr.Request) -> Sequence[Json]:
        """What the server says of its models, the base first."""
        cards: Sequence[Json] = (await self.client.get("/v1/models", key=self.key_of(request)))[
            "data"
        ]
        return cards


def read_key(cookies: Mapping[str, str], name: str) -> str | None:
    """The API key in a browser's cookies; None if there is none."""
    quoted = cookies.get(name)
    return None if quoted is None else unquote(quoted)


def page_of(request: gr.Request) -> str:
    """Names one page in one window of a browser."""
    return str(request.session_hash)


def unchanged() -> Updates:
    """No new value of any component; an empty mapping would be an error of Gradio's."""
    updates: Updates = gr.skip()
    return updates


def confirming(question: str) -> str:
    """JavaScript that asks in the browser first, and puts the answer last among the inputs."""
    return f"(...given) => [...given.slice(0, -1), confirm({json.dumps(question)})]"


def model_choices(cards: Sequence[Json]) -> Choices:
    """The models to choose from; adapters name the model that they adapt."""
    return [(_label(card), card["id"]) for card in cards]


def _label(card: Json) -> str:
    name: str = card["id"]
    # What was tuned here has its base in its name.
    return (
        name if card["parent"] is None or name.startswith("ft:") else f"{name} → {card['parent']}"
    )
