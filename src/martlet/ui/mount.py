"""Puts the page beside a server's API: `/ui`, in the language of whoever comes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse

from martlet.ui.client import Client, ServerUrl
from martlet.ui.page import build_page
from martlet.ui.reply import Stops
from martlet.ui.site import Site, Words
from martlet.ui.store import Store
from martlet.ui.words import en, zh

PATH = "/ui"
_LANGUAGE_TO_WORDS: dict[str, Words] = {"en": en.WORDS, "zh": zh.WORDS}
_ICON = (
    '<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns=%27http://www.w3.org/2000/svg%27 '
    "viewBox=%270 0 32 32%27%3E%3Cpath fill=%27%23149e8e%27 d=%27M1 6l13 8 9-3 8 2-6 3c-1 8-7 "
    '12-15 11l5-4C8 22 4 15 1 6z%27/%3E%3C/svg%3E">'
)
_LANGUAGE_TO_TAG = {"en": "en", "zh": "zh-CN"}


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What whoever runs the server decides of its page."""

    server: ServerUrl
    """The server that the page speaks to."""
    data_dir: Path
    """Where conversations are kept."""
    max_file_bytes: int
    """A larger file is not taken from a browser."""
    wants_key: bool
    """Whether the server answers nobody without an API key."""


def mount_page(app: FastAPI, settings: PageSettings) -> FastAPI:
    """Adds the page to an app, before it starts; it asks the app over HTTP alone.

    Args:
        app: The server's.
        settings: Where that server is, and what its page may do.
    """
    client, store = Client(settings.server), Store(settings.data_dir / "page.sqlite")
    folder = TemporaryDirectory(prefix="martlet-page-")
    stops = Stops()
    for language, words in _LANGUAGE_TO_WORDS.items():
        site = Site(
            words=words,
            client=client,
            store=store,
            stops=stops,
            folder=Path(folder.name),
            cookie="martlet_key",
        )
        other = next(each for each in _LANGUAGE_TO_WORDS if each != language)
        _mount(app, site, settings, language=language, other_language=other)
    app.add_api_route(PATH, _choose_language, include_in_schema=False)
    _close_with(app, client, store, folder)
    return app


def _mount(
    app: FastAPI, site: Site, settings: PageSettings, *, language: str, other_language: str
) -> None:
    sources = files("martlet.ui")
    script = sources.joinpath("page.js").read_text(encoding="utf-8")
    start = f'martlet.speak("{_LANGUAGE_TO_TAG[language]}");'
    gr.mount_gradio_app(
        app,
        build_page(site, other_language_url=f"{PATH}/{other_language}"),
        path=f"{PATH}/{language}",
        theme=_theme(),
        css=sources.joinpath("page.css").read_text(encoding="utf-8"),
        head=f"{_ICON}<script>{script}{start}</script>",
        js="() => martlet.restore_theme()",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=True,
        allowed_paths=[str(site.folder)],
        max_file_size=settings.max_file_bytes,
    )


def _theme() -> gr.themes.Base:
    """Fonts that every system has: nothing is fetched from elsewhere."""
    theme = gr.themes.Soft(
        primary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "Noto Sans", "Noto Sans CJK SC", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )
    return theme.set(
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_padding="0",
        block_border_width="1px",
        block_border_width_dark="1px",
        block_shadow="none",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="none",
    )


def _choose_language(request: Request) -> RedirectResponse:
    first = request.headers.get("accept-language", "").split(",")[0].lower()
    language = "zh" if first.startswith("zh") else "en"
    return RedirectResponse(f"{PATH}/{language}/")


def _close_with(
    app: FastAPI, client: Client, store: Store, folder: "TemporaryDirectory[str]"
) -> None:
    """Ends what the page holds when the app ends."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[None]:
        async with inner(started):
            try:
                yield
            finally:
                await client.close()
                store.close()
                folder.cleanup()

    app.router.lifespan_context = lifespan
