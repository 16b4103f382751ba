"""Puts the page beside a server's API: `/ui`, in the language of whoever comes."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI, Request
from starlette.responses import RedirectResponse, Response

from martlet.ui.client import Client, ServerUrl
from martlet.ui.doctor import Doctor
from martlet.ui.door import Door
from martlet.ui.languages import LANGUAGES, language_of, other_than, tag_of, words_of
from martlet.ui.page import build_page
from martlet.ui.site import Site, Words
from martlet.ui.store import Store

PATH = "/ui"
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="#149e8e" '
    'd="M1 6l13 8 9-3 8 2-6 3c-1 8-7 12-15 11l5-4C8 22 4 15 1 6z"/></svg>'
)


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
    doctor: Doctor | None
    """Looks at training rows for the model that is served; None where none is tuned."""


def mount_page(app: FastAPI, settings: PageSettings) -> FastAPI:
    """Adds the page to an app, before it starts; it asks the app over HTTP alone.

    Args:
        app: The server's.
        settings: Where that server is, and what its page may do.
    """
    folder = TemporaryDirectory(prefix="martlet-page-")
    site = Site(
        words=words_of(LANGUAGES[0]),
        client=Client(settings.server),
        store=Store(settings.data_dir / "page.sqlite"),
        folder=Path(folder.name),
        # Browsers send cookies to all ports of a host.
        cookie=f"martlet_key_{urlsplit(settings.server.url).port}",
        wants_key=settings.wants_key,
        doctor=settings.doctor,
    )
    for language in LANGUAGES:
        _mount(app, replace(site, words=words_of(language)), settings.max_file_bytes)
    app.add_api_route(PATH, _choose_language, include_in_schema=False)
    app.add_api_route("/favicon.ico", _icon, include_in_schema=False)
    if settings.wants_key:
        app.add_middleware(Door, client=site.client, path=PATH, cookie=site.cookie)
    _close_with(app, site, folder)
    return app


def _mount(app: FastAPI, site: Site, max_file_bytes: int) -> None:
    sources = files("martlet.ui")
    language = site.words["language"]
    script = sources.joinpath("page.js").read_text(encoding="utf-8")
    start = f'martlet.speak("{tag_of(language)}");'
    page = build_page(
        site, other_language_url=f"{PATH}/{other_than(language)}/", key_url=f"{PATH}/key"
    )
    gr.mount_gradio_app(
        app,
        page,
        path=f"{PATH}/{language}",
        theme=_theme(),
        css=sources.joinpath("page.css").read_text(encoding="utf-8") + _words_of_css(site.words),
        head=f"<script>{script}{start}</script>",
        js="() => martlet.restore_theme()",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=True,
        allowed_paths=[str(site.folder)],
        max_file_size=max_file_bytes,
    )


def _words_of_css(words: Words) -> str:
    """What style sheets must say: Gradio heads every error with the same English word."""
    return f":root {{ --error: {json.dumps(words['error'], ensure_ascii=False)}; }}\n"


def _theme() -> gr.themes.Base:
    """Fonts that every system has: nothing is fetched from elsewhere."""
    theme = gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=["system-ui", "Noto Sans", "Noto Sans CJK SC", "sans-serif"],
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
    )
    return theme.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_padding="0",
        block_border_width="1px",
        block_border_width_dark="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_label_border_width="0",
        block_label_border_width_dark="0",
        block_label_shadow="none",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="none",
    )


def _choose_language(request: Request) -> RedirectResponse:
    language = language_of(request.headers.get("accept-language", ""))
    return RedirectResponse(f"{PATH}/{language}/")


def _icon() -> Response:
    return Response(_ICON, media_type="image/svg+xml")


def _close_with(app: FastAPI, site: Site, folder: "TemporaryDirectory[str]") -> None:
    """Ends what the page holds when the app ends."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[None]:
        async with inner(started):
            try:
                yield
            finally:
                await site.client.close()
                site.store.close()
                folder.cleanup()

    app.router.lifespan_context = lifespan
