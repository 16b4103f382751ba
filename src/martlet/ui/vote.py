"""The tab that asks a question several times and lets the replies vote."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from random import randrange
from typing import Any

import gradio as gr

from martlet.answers.ballot import BallotReader
from martlet.answers.extractor import parse_extractor
from martlet.answers.policy import EarlyStop, VotePolicy
from martlet.errors import MartletError
from martlet.ui.ballots import bars, samples
from martlet.ui.lead import add_example, add_lead
from martlet.ui.poll import Poll
from martlet.ui.question import question_prompt
from martlet.ui.reply import Reply, chat_body, draw
from martlet.ui.sampling import SamplingControls
from martlet.ui.site import Site, Updates, model_choices, page_of
from martlet.ui.stops import Stops

_NUM_SAMPLES, _MOST_SAMPLES = 8, 32
_LARGEST_SEED = 2**31


class VoteTab:
    """A question with options, k samples, and bars that grow. Made inside a tab of the page.

    Args:
        site: The shared parts.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stops = Stops()
        add_lead(site.words, "vote")
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=2, min_width=320):
                self._add_question()
                self._bars = gr.HTML(padding=False, elem_classes="told")
                self._samples = gr.HTML(padding=False, elem_classes="told")
            with gr.Column(scale=1, min_width=280):
                self._add_rules()
        self._ask.click(
            self._run,
            [
                self._question,
                self._options,
                self._model,
                self._num_samples,
                self._early_stop,
                self._extract,
                *self._sampling.components,
            ],
            self.outputs,
            show_progress="hidden",
            concurrency_limit=None,
        )
        self._stop_button.click(self._stop, None, None, queue=False)

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        own = [self._model, self._ask, self._stop_button, self._bars, self._samples]
        return [*own, *self._sampling.components]

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

    def _add_question(self) -> None:
        words = self._site.words
        self._question = gr.Textbox(
            label=words["question"],
            placeholder=words["vote_placeholder"],
            lines=5,
            max_lines=16,
            elem_id="vote-question",
        )
        self._options = gr.Textbox(
            label=words["options"],
            info=words["options_info"],
            lines=4,
            max_lines=12,
            elem_id="vote-options",
        )
        add_example(words, self._question, self._options)
        with gr.Row(elem_classes="keep"):
            self._ask = gr.Button(words["vote_ask"], variant="primary", elem_id="vote-ask")
            self._stop_button = gr.Button(words["stop"], interactive=False)

    def _add_rules(self) -> None:
        words = self._site.words
        self._model = gr.Dropdown([], label=words["model"])
        self._num_samples = gr.Slider(
            1, _MOST_SAMPLES, value=_NUM_SAMPLES, step=1, label=words["num_samples"]
        )
        self._early_stop = gr.Dropdown(
            [(words[f"early_stop_{mode}"], mode) for mode in ("exact", "beta", "off")],
            value="exact",
            label=words["early_stop"],
        )
        self._extract = gr.Dropdown(
            [(words[f"extract_{name}"], name) for name in ("letter", "letters", "number")],
            value="letter",
            label=words["extract"],
        )
        with gr.Accordion(words["sampling"], open=False, elem_id="vote-sampling"):
            self._sampling = SamplingControls(words, several=True)

    async def _stop(self, request: gr.Request) -> None:
        self._stops.press(page_of(request))

    async def _run(
        self,
        request: gr.Request,
        question: str,
        options: str,
        model: str,
        num_samples: int,
        early_stop: str,
        extract: str,
        *sampling: Any,
    ) -> AsyncGenerator[Updates]:
        lines = [] if extract == "number" else options.splitlines()
        listed = [line.strip() for line in lines if line.strip()]
        with self._site.telling():
            prompt = self._prompt(question, listed, extract)
            poll = _poll(listed, num_samples, early_stop, extract)
            parameters = self._sampling.given(sampling)
        seed = parameters.setdefault("seed", randrange(_LARGEST_SEED))
        assert isinstance(seed, int)
        messages, key = [{"role": "user", "content": prompt}], self._site.key_of(request)

        def ask(index: int, reply: Reply) -> asyncio.Task[None]:
            body = chat_body(model, messages, {**parameters, "seed": seed + index})
            return asyncio.create_task(draw(self._site.client, body, reply, key=key))

        stop, num_shown = self._stops.begin(page_of(request)), -1
        yield {**self._buttons(is_running=True), self._samples: ""}
        try:
            async with aclosing(poll.take(ask, stop)) as looks:
                async for _ in looks:
                    updates: Updates = {self._bars: bars(self._site.words, poll, listed)}
                    if len(poll.finished) != num_shown:  # else it would fold what is unfolded
                        num_shown = len(poll.finished)
                        updates[self._samples] = samples(self._site.words, poll)
                    yield updates
        except MartletError as error:
            yield self._buttons(is_running=False)
            raise self._site.refusal(error) from error
        finally:
            self._stops.leave(page_of(request))
        yield {
            **self._buttons(is_running=False),
            self._bars: bars(self._site.words, poll, listed, is_over=True),
            self._samples: samples(self._site.words, poll),
        }

    def _buttons(self, *, is_running: bool) -> Updates:
        return {
            self._ask: gr.Button(interactive=not is_running),
            self._stop_button: gr.Button(interactive=is_running),
        }

    def _prompt(self, question: str, options: Sequence[str], extract: str) -> str:
        if not question.strip():
            raise self._site.refusal(self._site.words["prompt_empty"])
        if extract == "number":
            return question
        if not options:
            raise self._site.refusal(self._site.words["options_empty"])
        return question_prompt(question, options)


def _poll(options: Sequence[str], num_samples: int, early_stop: str, extract: str) -> Poll:
    reader = BallotReader(parse_extractor(extract)(options))
    policy = VotePolicy(
        num_samples=num_samples, early_stop=EarlyStop.parse(early_stop), reader=reader
    )
    return Poll(policy=policy, reader=reader, num_samples=num_samples)
