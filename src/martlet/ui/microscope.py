"""The tab that shows how a reply came about, token by token."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from martlet.errors import MartletError
from martlet.ui.figures import figures
from martlet.ui.lead import add_example, add_lead
from martlet.ui.reply import Reply, chat_body, draw, watch
from martlet.ui.sampling import SamplingControls, effective_table
from martlet.ui.site import Site, Updates, model_choices, page_of
from martlet.ui.steps import candidates, ending, ribbon
from martlet.ui.stops import Stops

_NUM_CANDIDATES = 10
_MAX_TOKENS = 64


class MicroscopeTab:
    """One prompt, and each step's candidates. Made inside a tab of the page.

    Args:
        site: The shared parts.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stops = Stops()
        words = site.words
        add_lead(words, "microscope")
        self._steps = gr.State([])
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=2, min_width=320):
                self._box = gr.Textbox(
                    label=words["prompt"],
                    placeholder=words["microscope_placeholder"],
                    lines=1,
                    max_lines=20,
                    submit_btn=True,
                    elem_id="microscope-prompt",
                )
                add_example(words, self._box)
                self._ribbon = gr.HTML(padding=False, elem_classes="told")
                self._figures = gr.HTML(padding=False, elem_classes="told")
                self._place = gr.Slider(
                    1, 2, value=1, step=1, label=words["step"], visible=False, elem_id="step"
                )
                self._candidates = gr.HTML(padding=False, elem_classes="told")
            with gr.Column(scale=1, min_width=280):
                self._model = gr.Dropdown([], label=words["model"])
                with gr.Accordion(words["sampling"], open=False):
                    self._sampling = SamplingControls(words, max_tokens=_MAX_TOKENS)
                with gr.Accordion(words["effective"], open=False):
                    self._effective = gr.HTML(f"<p>{words['effective_none']}</p>", padding=False)
        self._listen()

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        shown = [self._ribbon, self._figures, self._place, self._candidates, self._effective]
        return [self._steps, self._box, self._model, *shown, *self._sampling.components]

    @property
    def picker(self) -> gr.Dropdown:
        """Of the model."""
        return self._model

    async def load(self, _browser: str, request: gr.Request) -> Updates:
        """What the tab shows when the page is opened."""
        with self._site.telling():
            cards = await self._site.models(request)
        model = gr.Dropdown(choices=model_choices(cards), value=cards[0]["id"])
        return {self._model: model, **self._sampling.loaded(cards[0])}

    def _listen(self) -> None:
        asked = [self._box, self._model, *self._sampling.components]
        self._box.submit(
            self._run, asked, self.outputs, show_progress="hidden", concurrency_limit=None
        )
        self._box.stop(self._stop, None, None, queue=False)
        self._place.input(
            self._turn_to,
            [self._steps, self._place],
            [self._ribbon, self._candidates],
            show_progress="hidden",
            concurrency_limit=None,
        )

    async def _stop(self, request: gr.Request) -> None:
        self._stops.press(page_of(request))

    def _turn_to(self, steps: list[Any], place: int) -> tuple[str, str]:
        return ribbon(steps, place - 1), candidates(self._site.words, steps[place - 1])

    async def _run(
        self, request: gr.Request, text: str, model: str, *sampling: Any
    ) -> AsyncGenerator[Updates]:
        if not text.strip():
            raise self._site.refusal(self._site.words["prompt_empty"])
        with self._site.telling():
            given = self._sampling.given(sampling)
        parameters = {**given, "logprobs": True, "candidates": _NUM_CANDIDATES}
        body, reply = chat_body(model, [{"role": "user", "content": text}], parameters), Reply()
        stop, failure = self._stops.begin(page_of(request)), None
        yield {
            self._box: gr.Textbox(submit_btn=False, stop_btn=True),
            self._place: gr.Slider(visible=False),
            self._candidates: "",
        }
        key = self._site.key_of(request)
        drawing = asyncio.create_task(draw(self._site.client, body, reply, key=key))
        try:
            async with aclosing(watch([drawing], stop)) as looks:
                async for _ in looks:
                    yield {self._ribbon: ribbon(reply.steps, None)}
        except MartletError as error:
            failure = error
        finally:
            self._stops.leave(page_of(request))
        reply.end("stopped" if failure is None else "error")
        yield {
            self._box: gr.Textbox(submit_btn=True, stop_btn=False),
            self._effective: effective_table(self._site.words, reply.parameters),
            **self._seen(reply, model),
        }
        if failure is not None:
            raise self._site.refusal(failure)

    def _seen(self, reply: Reply, model: str) -> Updates:
        words, steps = self._site.words, reply.steps
        facts = {**reply.facts(), "model": model, "ending": None}  # a sentence tells it
        return {
            self._steps: steps,
            self._figures: figures(words, facts) + ending(words, reply),
            self._ribbon: ribbon(steps, 0),
            self._candidates: candidates(words, steps[0]) if steps else "",
            self._place: gr.Slider(
                minimum=1, maximum=max(2, len(steps)), value=1, visible=len(steps) > 1
            ),
        }
