"""The tab in which one talks: replies stream, stop, are drawn anew, and every branch is kept."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from martlet.errors import MartletError
from martlet.ui.chat_layout import ChatLayout
from martlet.ui.figures import figures
from martlet.ui.reply import Reply, chat_body, draw, watch
from martlet.ui.sampling import SamplingControls, effective_table
from martlet.ui.site import Choices, Site, Updates, model_choices, page_of
from martlet.ui.tree import Tree, Turn, messages_of


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a page stands: a conversation, and the last turn of the branch that it shows."""

    conversation: str | None = None
    leaf: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """A question that is in the store and wants a reply."""

    browser: str
    page: str
    key: str | None
    conversation: str
    question: int
    model: str
    parameters: dict[str, object]


class ChatTab:
    """Conversations of one browser. Made inside a tab of the page.

    Args:
        site: The shared parts.
        browser: Holds the browser's id.
    """

    def __init__(self, site: Site, browser: gr.BrowserState) -> None:
        self._site = site
        self._place = gr.State(Place())
        self._show = show = ChatLayout(site.words)
        settings = [show.model, show.system, show.policy, *show.sampling.components]
        begin = [browser, self._place, *settings]
        self.outputs = [self._place, *show.outputs]
        told: dict[str, Any] = {
            "outputs": self.outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        show.box.submit(self._send, [show.box, *begin], **told)
        show.chatbot.retry(self._retry, begin, **told)
        show.chatbot.edit(self._edit, begin, **told)
        show.box.stop(self._stop, None, None, queue=False)
        show.conversations.input(self._open, [browser, show.conversations], **told)
        show.branches.input(self._turn_to, [browser, self._place, show.branches], **told)
        show.new.click(self._new, [browser], **told)
        show.forget.click(self._forget, [browser, self._place], **told)
        show.system.blur(self._set_system, [browser, self._place, show.system], None)
        show.download.click(
            self._rows, [browser, self._place], [show.rows], show_progress="hidden"
        ).then(
            None, [show.rows], None, js="(rows) => martlet.download('conversations.jsonl', rows)"
        )

    async def load(self, browser: str, request: gr.Request) -> Updates:
        """What the tab shows when the page is opened."""
        show = self._show
        with self._site.telling():
            cards = await self._site.models(request)
            listed = await asyncio.to_thread(self._conversations, browser)
        model = gr.Dropdown(choices=model_choices(cards), value=cards[0]["id"])
        return {
            show.model: model,
            show.conversations: gr.Radio(choices=listed, value=None, visible=bool(listed)),
            **show.sampling.loaded(cards[0]),
        }

    async def _send(
        self, request: gr.Request, text: str, browser: str, place: Place, *settings: Any
    ) -> AsyncGenerator[Updates]:
        if not text.strip():
            return
        with self._site.telling():
            place = await asyncio.to_thread(self._add_question, browser, place, text, settings[1])
        ask = self._ask(browser, place, settings, request)
        async with aclosing(self._answer(ask, is_new=True)) as updates:
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
            tree = await asyncio.to_thread(self._tree, browser, place)
        question = _question_at(tree.branch(place.leaf), retry.index)
        place = Place(conversation=place.conversation, leaf=question.id)
        async with aclosing(self._answer(self._ask(browser, place, settings, request))) as updates:
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
            tree = await asyncio.to_thread(self._tree, browser, place)
            old = _question_at(tree.branch(place.leaf), edit.index)
            before = Place(conversation=place.conversation, leaf=old.parent)
            words = str(edit.value)
            place = await asyncio.to_thread(self._add_question, browser, before, words, settings[1])
        async with aclosing(self._answer(self._ask(browser, place, settings, request))) as updates:
            async for update in updates:
                yield update

    def _stop(self, request: gr.Request) -> None:
        self._site.stops.press(page_of(request))

    def _open(self, browser: str, conversation: str) -> Updates:
        with self._site.telling():
            leaves = self._site.store.tree(browser, conversation).leaves()
            place = Place(conversation=conversation, leaf=leaves[-1] if leaves else None)
            system = self._site.store.get(browser, conversation).system
            return {self._show.system: system, **self._shown(browser, place)}

    def _turn_to(self, browser: str, place: Place, leaf: int) -> Updates:
        with self._site.telling():
            return self._shown(browser, Place(conversation=place.conversation, leaf=leaf))

    def _new(self, browser: str) -> Updates:
        with self._site.telling():
            return self._shown(browser, Place())

    def _forget(self, browser: str, place: Place) -> Updates:
        with self._site.telling():
            if place.conversation is not None:
                self._site.store.forget(browser, place.conversation)
            return self._shown(browser, Place())

    def _set_system(self, browser: str, place: Place, system: str) -> None:
        if place.conversation is not None:
            with self._site.telling():
                self._site.store.set_system(browser, place.conversation, system)

    def _rows(self, browser: str, place: Place) -> str:
        """Each conversation as a training row: the branch that is shown, or the newest."""
        lines = []
        with self._site.telling():
            for conversation in self._site.store.conversations(browser):
                tree = self._site.store.tree(browser, conversation.id)
                is_shown = conversation.id == place.conversation
                leaf = place.leaf if is_shown else max(tree.leaves(), default=None)
                branch = tree.branch(leaf)
                answered = branch if not branch or branch[-1].role == "assistant" else branch[:-1]
                if answered:
                    row = {"messages": messages_of(answered, conversation.system)}
                    lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        if not lines:
            raise self._site.refusal(self._site.words["nothing_to_download"])
        return "".join(lines)

    def _add_question(self, browser: str, place: Place, text: str, system: str) -> Place:
        store, conversation, leaf = self._site.store, place.conversation, place.leaf
        if conversation is None:
            conversation = store.begin(browser, question=text, system=system)
        branch = store.tree(browser, conversation).branch(leaf)
        if branch and branch[-1].role == "user":  # it never got a reply
            leaf = branch[-1].parent
        turn = store.add_turn(browser, conversation, parent=leaf, role="user", content=text)
        return Place(conversation=conversation, leaf=turn)

    def _ask(
        self, browser: str, place: Place, settings: Sequence[Any], request: gr.Request
    ) -> _Ask:
        model, _, policy, *sampling = settings
        assert place.conversation is not None
        assert place.leaf is not None
        return _Ask(
            browser=browser,
            page=page_of(request),
            key=self._site.key_of(request),
            conversation=place.conversation,
            question=place.leaf,
            model=model,
            parameters={**SamplingControls.given(sampling), "context_policy": policy},
        )

    async def _answer(self, ask: _Ask, *, is_new: bool = False) -> AsyncGenerator[Updates]:
        """Draws a reply, shows it as it grows, and keeps what was said whatever ends it."""
        site, show = self._site, self._show
        place = Place(conversation=ask.conversation, leaf=ask.question)
        with site.telling():
            tree = await asyncio.to_thread(self._tree, ask.browser, place)
            system = (await asyncio.to_thread(site.store.get, ask.browser, ask.conversation)).system
        branch, reply, failure = tree.branch(ask.question), Reply(), None
        parameters = _further_draw(ask.parameters, tree.num_replies(ask.question))
        body = chat_body(ask.model, messages_of(branch, system), parameters)
        stop = site.stops.begin(ask.page)
        bubbles = _bubbles(branch)
        yield {
            **({show.box: gr.Textbox(value="", submit_btn=False, stop_btn=True)} if is_new else {}),
            self._place: place,
            show.chatbot: [*bubbles, {"role": "assistant", "content": "…"}],
        }
        try:
            drawing = asyncio.create_task(draw(site.client, body, reply, key=ask.key))
            async with aclosing(watch([drawing], stop)) as looks:
                async for _ in looks:
                    said = {"role": "assistant", "content": reply.text or "…"}
                    told = figures(site.words, {**reply.facts(), "model": ask.model})
                    yield {show.chatbot: [*bubbles, said], show.figures: told}
        except MartletError as error:
            failure = error
        finally:
            site.stops.forget(ask.page)
            reply.ending = reply.ending or ("stopped" if failure is None else "error")
            place = await asyncio.to_thread(self._keep, ask, reply, place)
        updates = await asyncio.to_thread(self._shown, ask.browser, place)
        updates[show.box] = gr.Textbox(submit_btn=True, stop_btn=False)
        updates[show.effective] = effective_table(site.words, reply.parameters)
        yield updates
        if failure is not None:
            raise site.refusal(failure)

    def _keep(self, ask: _Ask, reply: Reply, place: Place) -> Place:
        if not reply.text:
            return place
        leaf = self._site.store.add_turn(
            ask.browser,
            ask.conversation,
            parent=ask.question,
            role="assistant",
            content=reply.text,
            facts={**reply.facts(), "model": ask.model},
        )
        return Place(conversation=ask.conversation, leaf=leaf)

    def _tree(self, browser: str, place: Place) -> Tree:
        if place.conversation is None:
            return Tree()
        return self._site.store.tree(browser, place.conversation)

    def _conversations(self, browser: str) -> Choices:
        return [(each.title, each.id) for each in self._site.store.conversations(browser)]

    def _shown(self, browser: str, place: Place) -> Updates:
        """All that the tab shows of a place."""
        show, tree = self._show, self._tree(browser, place)
        branch, leaves, listed = (
            tree.branch(place.leaf),
            tree.leaves(),
            self._conversations(browser),
        )
        facts = branch[-1].facts if branch else {}
        return {
            self._place: place,
            show.chatbot: _bubbles(branch),
            show.figures: figures(self._site.words, facts),
            show.branches: gr.Radio(
                choices=[(str(number), leaf) for number, leaf in enumerate(leaves, start=1)],
                value=place.leaf,
                visible=len(leaves) > 1,
            ),
            show.conversations: gr.Radio(
                choices=listed, value=place.conversation, visible=bool(listed)
            ),
        }


def _bubbles(branch: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in branch]


def _question_at(branch: Sequence[Turn], index: int | tuple[int, int]) -> Turn:
    """The question at a place of the conversation, or the one that a reply there answers."""
    assert isinstance(index, int)
    return branch[index] if branch[index].role == "user" else branch[index - 1]


def _further_draw(parameters: dict[str, object], num_before: int) -> dict[str, object]:
    """The same parameters for a further reply: with the same seed it would say the same."""
    seed = parameters.get("seed")
    return {**parameters, "seed": seed + num_before} if isinstance(seed, int) else parameters
