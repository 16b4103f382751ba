"""The page in one language: its tabs, and what happens when it is opened."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import gradio as gr

from martlet.ui.batch import BatchTab
from martlet.ui.chat import ChatTab
from martlet.ui.compare import CompareTab
from martlet.ui.microscope import MicroscopeTab
from martlet.ui.site import Site, Updates, model_choices
from martlet.ui.train import TrainTab
from martlet.ui.vote import VoteTab

_STORAGE_KEY = "martlet"
_STORAGE_SECRET = "martlet"
"""What Gradio scrambles the local storage with: no secret, but the same after a restart."""
_CHAT = "chat"


def build_page(site: Site, *, other_language_url: str, key_url: str) -> gr.Blocks:
    """Builds the page; nothing is asked of the server before somebody opens it.

    Args:
        site: The shared parts, in the page's language.
        other_language_url: Where the page is in its other language.
        key_url: Where another API key can be given.
    """
    words = site.words
    blocks: gr.Blocks
    with gr.Blocks(
        title="Martlet", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86_400)
    ) as blocks:
        browser = gr.BrowserState("", storage_key=_STORAGE_KEY, secret=_STORAGE_SECRET)
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>Martlet</h1>", padding=False)
            if site.wants_key:
                gr.Button(words["door_key"], size="sm", link=key_url, scale=0)
            gr.Button(
                words["language_other"],
                size="sm",
                link=other_language_url,
                scale=0,
                elem_id="other-language",
            )
            theme = gr.Button("◐", size="sm", scale=0, elem_id="theme")
        theme.click(None, js="() => martlet.turn_theme()")
        with gr.Tabs() as shown:
            with gr.Tab(words["chat"], id=_CHAT):
                chat = ChatTab(site, browser)
            with gr.Tab(words["compare"]):
                compare = CompareTab(site, browser)
            with gr.Tab(words["vote"]):
                vote = VoteTab(site)
            with gr.Tab(words["batch"]):
                batch = BatchTab(site)
            with gr.Tab(words["train"]):
                train = TrainTab(site)
            with gr.Tab(words["microscope"]):
                microscope = MicroscopeTab(site)
        tabs = (chat, compare, vote, batch, train, microscope)
        pickers = [tab.picker for tab in (chat, compare, vote, batch, microscope)]
        _offer_tuned(site, train, pickers)
        _talk_to_tuned(site, train, shown, chat)

        async def load(request: gr.Request, browser_id: str) -> Updates:
            known = browser_id or uuid4().hex
            loaded = await asyncio.gather(*(tab.load(known, request) for tab in tabs))
            updates: Updates = {browser: known}
            for update in loaded:
                updates |= update
            return updates

        outputs = [browser, *(component for tab in tabs for component in tab.outputs)]
        blocks.load(load, [browser], outputs, show_progress="hidden", concurrency_limit=None)
    blocks.queue(default_concurrency_limit=None, api_open=False)
    return blocks


def _offer_tuned(site: Site, train: TrainTab, pickers: Sequence[gr.Dropdown]) -> None:
    """Lets a model that was tuned just now be picked in every tab, without a reload."""

    async def offer(request: gr.Request) -> Updates:
        with site.telling():
            choices = model_choices(await site.models(request))
        return {picker: gr.Dropdown(choices=choices) for picker in pickers}

    train.tuned.change(offer, None, [*pickers], show_progress="hidden", concurrency_limit=None)


def _talk_to_tuned(site: Site, train: TrainTab, shown: gr.Tabs, chat: ChatTab) -> None:
    """Turns to the chat, with the model that was tuned just now."""

    async def talk(request: gr.Request, model: str) -> Updates:
        with site.telling():
            choices = model_choices(await site.models(request))
        return {
            shown: gr.Tabs(selected=_CHAT),
            chat.picker: gr.Dropdown(choices=choices, value=model),
        }

    train.talk.click(talk, [train.tuned], [shown, chat.picker], show_progress="hidden")
