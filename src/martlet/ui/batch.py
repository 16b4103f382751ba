"""The tab for a file of questions: drop it, watch it, take the answers and a report home."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import gradio as gr

from martlet.errors import MartletError
from martlet.ui.batch_report import UNFINISHED, batch_name, progress, report
from martlet.ui.client import Json
from martlet.ui.lead import add_lead
from martlet.ui.requests_file import write_requests
from martlet.ui.sampling import SamplingControls
from martlet.ui.site import Choices, Site, Updates, model_choices, page_of, unchanged
from martlet.ui.stops import Stops

_LOOK_S = 0.5
_WINDOW = "24h"


class BatchTab:
    """Files and batches of the server. Made inside a tab of the page.

    Args:
        site: The shared parts.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        words = site.words
        add_lead(words, "batch")
        self._looks = Stops()
        self._batch = gr.State("")
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=2, min_width=320):
                self._file = gr.File(
                    label=words["batch_file"],
                    file_types=[".jsonl", ".json", ".csv", ".txt", ".parquet"],
                    height=140,
                    elem_id="batch-file",
                )
                gr.Markdown(words["batch_shapes"], elem_classes="hint")
                with gr.Row(elem_classes="keep"):
                    self._start = gr.Button(
                        words["batch_start"], variant="primary", elem_id="batch-start"
                    )
                    self._cancel = gr.Button(words["batch_cancel"], interactive=False)
                self._progress = gr.HTML(padding=False, elem_classes="told")
                self._results = gr.File(
                    label=words["batch_results"],
                    file_count="multiple",
                    interactive=False,
                    visible=False,
                    elem_id="batch-results",
                )
            with gr.Column(scale=1, min_width=280):
                self._model = gr.Dropdown([], label=words["model"])
                with gr.Accordion(words["sampling"], open=False):
                    self._sampling = SamplingControls(words)
                self._earlier = gr.Radio([], label=words["batch_earlier"], elem_classes="list")
        self._listen()

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        own = [self._batch, self._start, self._cancel, self._progress, self._results, self._model]
        return [*own, self._earlier, *self._sampling.components]

    @property
    def picker(self) -> gr.Dropdown:
        """Of the model."""
        return self._model

    async def load(self, _browser: str, request: gr.Request) -> Updates:
        """What the tab shows when the page is opened."""
        with self._site.telling():
            cards = await self._site.models(request)
            earlier = await self._listed(request)
        return {
            self._model: gr.Dropdown(choices=model_choices(cards), value=cards[0]["id"]),
            self._earlier: gr.Radio(choices=earlier, visible=bool(earlier)),
            **self._sampling.loaded(cards[0]),
        }

    def _listen(self) -> None:
        told: dict[str, Any] = {
            "outputs": self.outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
            "trigger_mode": "multiple",  # a further batch may be begun or shown while one is shown
        }
        asked = [self._file, self._model, *self._sampling.components]
        self._start.click(self._run, asked, **told)
        self._earlier.input(self._follow, [self._earlier], **told)
        self._cancel.click(self._call_off, [self._batch], None, concurrency_limit=None)

    async def _run(
        self, request: gr.Request, dropped: str | None, model: str, *sampling: Any
    ) -> AsyncGenerator[Updates]:
        if dropped is None:
            raise self._site.refusal(self._site.words["batch_no_file"])
        yield {self._start: gr.Button(interactive=False)}
        try:
            parameters = self._sampling.given(sampling)
            batch = await self._create(Path(dropped), model, parameters, request)
        except MartletError as error:
            yield {self._start: gr.Button(interactive=True)}
            raise self._site.refusal(error) from error
        yield {self._start: gr.Button(interactive=True)}
        async with aclosing(self._follow(request, batch["id"])) as steps:
            async for updates in steps:
                yield updates

    async def _create(
        self, dropped: Path, model: str, parameters: dict[str, object], request: gr.Request
    ) -> Json:
        client, key = self._site.client, self._site.key_of(request)
        lines = self._site.folder / f"{uuid4().hex}.jsonl"
        try:
            endpoint = await asyncio.to_thread(
                write_requests, dropped, lines, model=model, parameters=parameters
            )
            name = f"{dropped.stem}.jsonl"
            file = await client.upload(lines, name=name, purpose="batch", key=key)
        finally:
            lines.unlink(missing_ok=True)
        body = {
            "input_file_id": file["id"],
            "endpoint": endpoint,
            "completion_window": _WINDOW,
            "metadata": {"file_name": dropped.name[:512]},
        }
        return await client.post("/v1/batches", body, key=key)

    async def _follow(self, request: gr.Request, batch_id: str) -> AsyncGenerator[Updates]:
        """Shows how a batch is doing until it has ended, and then its files."""
        words, is_over = self._site.words, self._looks.begin(page_of(request))
        # Gradio takes copies of the files before it asks for what comes after them.
        with self._site.telling(), TemporaryDirectory(dir=self._site.folder) as folder:
            batch = await self._look(batch_id, request)
            yield {
                self._batch: batch_id,
                self._cancel: gr.Button(interactive=batch["status"] in UNFINISHED),
                self._progress: progress(words, batch),
                self._results: gr.File(value=None, visible=False),
                self._earlier: await self._choices(batch_id, request),
            }
            while batch["status"] in UNFINISHED:
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), _LOOK_S)
                    yield unchanged()  # Gradio shows the last update once more at the end
                    return
                batch = await self._look(batch_id, request)
                yield {self._progress: progress(words, batch)}
            files = await self._fetch(batch, Path(folder), request)
            yield {
                self._cancel: gr.Button(interactive=False),
                self._results: gr.File(value=files, visible=True),
                self._earlier: await self._choices(batch_id, request),
            }

    async def _call_off(self, request: gr.Request, batch_id: str) -> None:
        with self._site.telling():
            path = f"/v1/batches/{batch_id}/cancel"
            await self._site.client.post(path, key=self._site.key_of(request))

    async def _look(self, batch_id: str, request: gr.Request) -> Json:
        path = f"/v1/batches/{batch_id}"
        return await self._site.client.get(path, key=self._site.key_of(request))

    async def _choices(self, batch_id: str, request: gr.Request) -> gr.Radio:
        return gr.Radio(choices=await self._listed(request), value=batch_id, visible=True)

    async def _listed(self, request: gr.Request) -> Choices:
        page = await self._site.client.get("/v1/batches", key=self._site.key_of(request))
        return [
            (f"{batch_name(batch)} · {self._site.words['status_' + batch['status']]}", batch["id"])
            for batch in page["data"]
        ]

    async def _fetch(self, batch: Json, folder: Path, request: gr.Request) -> list[str]:
        """Answers, errors and the report, as files for the browser."""
        name_to_path: dict[str, Path | None] = {}
        for name, field in (("answers", "output_file_id"), ("errors", "error_file_id")):
            file_id, path = batch.get(field), folder / f"{name}.jsonl"
            if file_id is not None:
                key = self._site.key_of(request)
                await self._site.client.download(file_id, path, key=key)
            name_to_path[name] = path if file_id is not None else None
        told = folder / "report.md"
        text = await asyncio.to_thread(
            report, self._site.words, batch, name_to_path["answers"], name_to_path["errors"]
        )
        told.write_text(text, encoding="utf-8")
        return [str(path) for path in (*name_to_path.values(), told) if path is not None]
