"""The tab in which one talks: replies stream, stop, are drawn anew, and every branch is kept."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from martlet.errors import MartletError, NotFoundError
from martlet.ui.chat_layout import ChatLayout
from martlet.ui.figures import figures
from martlet.ui.notebook import Notebook, Place
from martlet.ui.reply import Reply, draw, watch
from martlet.ui.sampling import effective_table
from martlet.ui.site import Site, Updates, confirming, model_choices, page_of, unchanged
from martlet.ui.stops import Stops
from martlet.ui.tree import Turn
from martlet.ui.visit import Visit


class ChatTab:
    """Conversations of one browser. Made inside a tab of the page.

    Args:
        site: The shared parts.
        browser: Holds the browser's id.
    """

    def __init__(self, site: Site, browser: gr.BrowserState) -> None:
        self._site = site
        self._stops = Stops()
        self._place = gr.State(Place())
        self._show = show = ChatLayout(site.words)
        self.outputs = [self._place, *show.outputs]
        told: dict[str, Any] = {
            "outputs": self.outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        here = [browser, self._place]
        asked = [*here, show.model, show.system, show.policy, *show.sampling.components]
        show.box.submit(self._send, [show.box, *asked], **told)
        show.chatbot.retry(self._retry, asked, **told)
        show.chatbot.edit(self._edit, asked, **told)
        show.box.stop(self._stop, None, None, queue=False)
        show.conversations.input(self._open, [browser, show.conversations], **told)
        show.branches.input(self._turn_to, [*here, show.branches], **told)
        show.new.click(self._new, [browser], **told)
        show.chatbot.example_select(self._try, None, [show.box], show_progress="hidden")
        sure = confirming(site.words["confirm_forget"])
        # By default Gradio drops a click while an earlier one, that was taken back, is on its way.
        show.forget.click(
            self._forget, [*here, show.is_sure], js=sure, trigger_mode="multiple", **told
        )
        show.download.click(self._rows, here, [show.rows], show_progress="hidden").success(
            None, [show.rows], None, js="(rows) => martlet.download('conversations.jsonl', rows)"
        )

    @property
    def picker(self) -> gr.Dropdown:
        """Of the model."""
        return self._show.model

    async def load(self, browser: str, request: gr.Request) -> Updates:
        """What the tab shows when the page is opened."""
        show = self._show
        with self._site.telling():
            cards = await self._site.models(request)
            shown = await asyncio.to_thread(self._shown, self._notebook(browser), Place())
        model = gr.Dropdown(choices=model_choices(cards), value=cards[0]["id"])
        return {show.model: model, **show.sampling.loaded(cards[0]), **shown}

    async def _send(
        self, request: gr.Request, text: str, browser: str, place: Place, *settings: Any
    ) -> AsyncGenerator[Updates]:
        if not text.strip():
            return
        with self._site.telling():
            visit = self._visit(request, browser, settings)
            place = await asyncio.to_thread(visit.notebook.ask, place, text, visit.system)
        yield {self._show.box: ""}
        async with aclosing(self._answer(visit, place)) as updates:
            async for update in updates:
                yield update

    async def _retry(
        self,
        request: gr.Request,
        retry: gr.RetryData,
        browser: str,
        place: Place,
        *settings: Any,
    ) -> AsyncGenerator[Updates]:
        with self._site.telling():
            visit = self._visit(request, browser, settings)
            again = visit.notebook.ask_again
            place = await asyncio.to_thread(again, place, _flat(retry.index), visit.system)
        async with aclosing(self._answer(visit, place)) as updates:
            async for update in updates:
                yield update

    async def _edit(
        self,
        request: gr.Request,
        edit: gr.EditData,
        browser: str,
        place: Place,
        *settings: Any,
    ) -> AsyncGenerator[Updates]:
        with self._site.telling():
            visit = self._visit(request, browser, settings)
            index, text, otherwise = _flat(edit.index), edit.value, visit.notebook.ask_otherwise
            place = await asyncio.to_thread(otherwise, place, index, str(text), visit.system)
        async with aclosing(self._answer(visit, place)) as updates:
            async for update in updates:
                yield update

    async def _stop(self, request: gr.Request) -> None:
        self._stops.press(page_of(request))

    async def _open(self, request: gr.Request, browser: str, conversation: str) -> Updates:
        await self._stops.leave_kept(page_of(request))
        notebook = self._notebook(browser)
        with self._site.telling():
            place, system = await asyncio.to_thread(notebook.open, conversation)
            shown = await asyncio.to_thread(self._shown, notebook, place)
        return {self._show.system: system, **shown}

    async def _turn_to(self, request: gr.Request, browser: str, place: Place, leaf: int) -> Updates:
        await self._stops.leave_kept(page_of(request))
        there = Place(conversation=place.conversation, leaf=leaf)
        with self._site.telling():
            return await asyncio.to_thread(self._shown, self._notebook(browser), there)

    async def _new(self, request: gr.Request, browser: str) -> Updates:
        await self._stops.leave_kept(page_of(request))
        with self._site.telling():
            return await asyncio.to_thread(self._shown, self._notebook(browser), Place())

    def _try(self, example: gr.SelectData) -> str:
        return str(example.value["text"])

    async def _forget(
        self, request: gr.Request, browser: str, place: Place, is_sure: bool
    ) -> Updates:
        if not is_sure:
            return unchanged()
        await self._stops.leave_kept(page_of(request))
        notebook = self._notebook(browser)
        with self._site.telling():
            await asyncio.to_thread(notebook.forget, place)
            return await asyncio.to_thread(self._shown, notebook, Place())

    def _rows(self, browser: str, place: Place) -> str:
        with self._site.telling():
            rows = self._notebook(browser).rows(place)
        if not rows:
            raise self._site.refusal(self._site.words["nothing_to_download"])
        return rows

    def _notebook(self, browser: str) -> Notebook:
        return Notebook(self._site.store, browser)

    def _visit(self, request: gr.Request, browser: str, settings: Sequence[Any]) -> Visit:
        model, system, policy, *sampling = settings
        return Visit(
            notebook=self._notebook(browser),
            page=page_of(request),
            key=self._site.key_of(request),
            model=model,
            system=system,
            parameters={**self._show.sampling.given(sampling), "context_policy": policy},
        )

    async def _answer(self, visit: Visit, question: Place) -> AsyncGenerator[Updates]:
        """Draws a reply, shows it as it grows, and keeps what was said whatever ends it."""
        show, words, reply = self._show, self._site.words, Reply()
        branch, body = await asyncio.to_thread(visit.request, question)
        stop, failure = self._stops.begin(visit.page), None
        try:
            yield {
                self._place: question,
                show.box: gr.Textbox(submit_btn=False, stop_btn=True),
                show.chatbot: [*_bubbles(branch), _bubble("…")],
            }
            drawing = asyncio.create_task(draw(self._site.client, body, reply, key=visit.key))
            async with aclosing(watch([drawing], stop)) as looks:
                async for _ in looks:
                    if stop.is_left:
                        break
                    facts = {**reply.facts(), "model": visit.model}
                    bubbles = [*_bubbles(branch), _bubble(reply.text or "…")]
                    yield {show.chatbot: bubbles, show.figures: figures(words, facts)}
        except MartletError as error:
            failure = error
        finally:
            reply.end("stopped" if failure is None else "error")
            facts = {**reply.facts(), "model": visit.model}
            place = _kept(visit.notebook, question, reply.text, facts)
            stop.ended.set()
        if stop.is_left:
            yield unchanged()  # Gradio shows the last update once more at the end
            return
        yield {
            **await asyncio.to_thread(self._shown, visit.notebook, place),
            show.effective: effective_table(words, reply.parameters),
        }
        if failure is not None:
            raise self._site.refusal(failure)

    def _shown(self, notebook: Notebook, place: Place) -> Updates:
        """All that the tab shows of a place."""
        show, tree = self._show, notebook.tree(place)
        branch, leaves = tree.branch(place.leaf), tree.leaves()
        listed = [(each.title, each.id) for each in notebook.conversations()]
        return {
            self._place: place,
            show.box: gr.Textbox(submit_btn=True, stop_btn=False),
            show.chatbot: _bubbles(branch),
            show.figures: figures(self._site.words, branch[-1].facts if branch else {}),
            show.branches: gr.Radio(
                choices=[(str(number), leaf) for number, leaf in enumerate(leaves, start=1)],
                value=place.leaf,
                visible=len(leaves) > 1,
            ),
            show.conversations: gr.Radio(
                choices=listed, value=place.conversation, visible=bool(listed)
            ),
            show.forget: gr.Button(interactive=place.conversation is not None),
        }


def _kept(notebook: Notebook, question: Place, text: str, facts: Mapping[str, object]) -> Place:
    """Where the conversation is with a reply in it; nowhere if it was deleted meanwhile."""
    try:
        return notebook.keep_reply(question, text, facts)
    except NotFoundError:
        return Place()


def _bubbles(branch: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in branch]


def _bubble(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _flat(index: int | tuple[int, int]) -> int:
    """The number of a message; only the pairs of older Gradio were numbered twice."""
    assert isinstance(index, int)
    return index
