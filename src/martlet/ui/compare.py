"""The tab that puts replies side by side; the better one becomes a training row."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from martlet.errors import MartletError
from martlet.ui.client import Json
from martlet.ui.contest import Contest
from martlet.ui.figures import figures, said
from martlet.ui.lead import add_example, add_lead
from martlet.ui.reply import Reply, chat_body, draw, watch
from martlet.ui.sampling import SamplingControls
from martlet.ui.site import Site, Updates, confirming, model_choices, page_of, unchanged
from martlet.ui.stops import Stops

_LEAST, _MOST = 2, 4
_SEED = 1


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One reply's place."""

    column: gr.Column
    shown: gr.HTML
    better: gr.Button


class CompareTab:
    """One prompt, two to four models, the same seed. Made inside a tab of the page.

    Args:
        site: The shared parts.
        browser: Holds the browser's id.
    """

    def __init__(self, site: Site, browser: gr.BrowserState) -> None:
        self._site = site
        self._stops = Stops()
        words = site.words
        add_lead(words, "compare")
        self._contest = gr.State(Contest())
        self._models = gr.Dropdown(
            [], multiselect=True, max_choices=_MOST, label=words["compared"], elem_id="compared"
        )
        self._system = gr.Textbox(
            label=words["system"], placeholder=words["system_placeholder"], lines=1, max_lines=6
        )
        with gr.Accordion(words["sampling"], open=False):
            self._sampling = SamplingControls(words, seed=_SEED)
        self._box = gr.Textbox(
            label=words["prompt"],
            placeholder=words["compare_placeholder"],
            lines=1,
            max_lines=20,
            submit_btn=True,
            elem_id="compare-prompt",
        )
        add_example(words, self._box)
        self._told = gr.Markdown(elem_classes="hint told")
        with gr.Row(elem_classes="panels"):
            self._panels = [self._panel(words["better"]) for _ in range(_MOST)]
        with gr.Row(elem_classes="keep"):
            self._kept = gr.Markdown()
            self._download = gr.Button(
                words["download_preferences"],
                size="sm",
                visible=False,
                elem_id="download-preferences",
            )
            self._forget = gr.Button(words["forget_preferences"], size="sm", visible=False)
        self._is_sure = gr.Checkbox(visible=False)
        self._rows = gr.Textbox(visible=False)
        self._listen(browser)

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        panels = [
            part for panel in self._panels for part in (panel.column, panel.shown, panel.better)
        ]
        kept = [self._kept, self._download, self._forget]
        own = [self._contest, self._models, self._box, self._told, *kept, *panels]
        return [*own, *self._sampling.components]

    @property
    def picker(self) -> gr.Dropdown:
        """Of the models."""
        return self._models

    async def load(self, browser: str, request: gr.Request) -> Updates:
        """What the tab shows when the page is opened."""
        with self._site.telling():
            cards = await self._site.models(request)
            kept = await asyncio.to_thread(self._told_of_rows, browser)
        models = gr.Dropdown(
            choices=model_choices(cards),
            value=[card["id"] for card in cards[:_LEAST]],
            info=self._site.words["compare_one"] if len(cards) < _LEAST else None,
        )
        return {self._models: models, **kept, **self._sampling.loaded(cards[0])}

    def _panel(self, better: str) -> _Panel:
        with gr.Column(visible=False, min_width=240, elem_classes="contestant") as column:
            shown = gr.HTML(padding=False)
            button = gr.Button(better, size="sm", visible=False)
        return _Panel(column=column, shown=shown, better=button)

    def _listen(self, browser: gr.BrowserState) -> None:
        told: dict[str, Any] = {
            "outputs": self.outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        asked = [self._box, self._system, self._models, *self._sampling.components]
        self._box.submit(self._run, asked, **told)
        self._box.stop(self._stop, None, None, queue=False)
        for place, panel in enumerate(self._panels):
            panel.better.click(partial(self._prefer, place), [browser, self._contest], **told)
        self._download.click(self._all_rows, [browser], [self._rows], show_progress="hidden").then(
            None, [self._rows], None, js="(rows) => martlet.download('preferences.jsonl', rows)"
        )
        sure = confirming(self._site.words["confirm_forget_preferences"])
        self._forget.click(self._forget_rows, [browser, self._is_sure], js=sure, **told)

    async def _stop(self, request: gr.Request) -> None:
        self._stops.press(page_of(request))

    async def _run(
        self, request: gr.Request, text: str, system: str, models: list[str], *sampling: Any
    ) -> AsyncGenerator[Updates]:
        if not _LEAST <= len(models) <= _MOST:
            raise self._site.refusal(self._site.words["compare_two"])
        if not text.strip():
            raise self._site.refusal(self._site.words["prompt_empty"])
        head = [{"role": "system", "content": system}] if system.strip() else []
        messages = [*head, {"role": "user", "content": text}]
        with self._site.telling():
            parameters = self._sampling.given(sampling)
        replies = [Reply() for _ in models]
        stop, failure = self._stops.begin(page_of(request)), None
        yield {**self._begun(models), self._box: gr.Textbox(submit_btn=False, stop_btn=True)}
        bodies = [chat_body(model, messages, parameters) for model in models]
        drawings = self._drawings(bodies, replies, self._site.key_of(request))
        try:
            async with aclosing(watch(drawings, stop)) as looks:
                async for _ in looks:
                    yield self._grown(models, replies)
        except MartletError as error:
            failure = error
        finally:
            self._stops.leave(page_of(request))
        for reply in replies:
            reply.end("stopped" if failure is None else "error")
        texts = [reply.text for reply in replies]
        is_same = failure is None and len(set(texts)) == 1
        yield {
            **self._grown(models, replies),
            **self._ready_to_choose(texts),
            self._told: self._site.words["compare_same"] if is_same else "",
            self._contest: Contest(messages=messages, models=models, texts=texts),
            self._box: gr.Textbox(submit_btn=True, stop_btn=False),
        }
        if failure is not None:
            raise self._site.refusal(failure)

    def _drawings(
        self, bodies: Sequence[Json], replies: Sequence[Reply], key: str | None
    ) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(draw(self._site.client, body, reply, key=key))
            for body, reply in zip(bodies, replies, strict=True)
        ]

    def _begun(self, models: Sequence[str]) -> Updates:
        updates: Updates = {}
        for place, panel in enumerate(self._panels):
            updates[panel.column] = gr.Column(visible=place < len(models))
            updates[panel.better] = gr.Button(visible=False)
        return updates

    def _grown(self, models: Sequence[str], replies: Sequence[Reply]) -> Updates:
        words = self._site.words
        return {
            panel.shown: said(model, reply.text) + figures(words, reply.facts())
            for panel, model, reply in zip(self._panels, models, replies, strict=False)
        }

    def _ready_to_choose(self, texts: Sequence[str]) -> Updates:
        return {
            panel.better: gr.Button(
                self._site.words["better"],
                visible=bool(text.strip()) and len(set(texts)) > 1,
                variant="secondary",
                interactive=True,
            )
            for panel, text in zip(self._panels, texts, strict=False)
        }

    def _prefer(self, place: int, browser: str, contest: Contest) -> Updates:
        with self._site.telling():
            rows, store = contest.preferences(place), self._site.store
            kept = store.keep_preferences(browser, rows, instead_of=contest.kept)
            updates = self._told_of_rows(browser)
        updates[self._contest] = replace(contest, kept=kept)
        for each, panel in enumerate(self._panels[: len(contest.models)]):
            is_chosen = each == place
            updates[panel.better] = gr.Button(
                self._site.words["chosen" if is_chosen else "better"],
                variant="primary" if is_chosen else "secondary",
                interactive=not is_chosen,
            )
        return updates

    def _told_of_rows(self, browser: str) -> Updates:
        num_rows = len(self._site.store.preferences(browser))
        told = self._site.words["n_preferences"].format(num_rows)
        return {
            self._kept: told if num_rows else "",
            self._download: gr.Button(visible=num_rows > 0),
            self._forget: gr.Button(visible=num_rows > 0),
        }

    def _all_rows(self, browser: str) -> str:
        with self._site.telling():
            return "".join(f"{row}\n" for row in self._site.store.preferences(browser))

    def _forget_rows(self, browser: str, is_sure: bool) -> Updates:
        if not is_sure:
            return unchanged()
        with self._site.telling():
            self._site.store.forget_preferences(browser)
            return self._told_of_rows(browser)
