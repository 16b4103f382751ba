"""The tab for tuning: drop rows, see what is wrong with them, watch the losses of a job."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from martlet.errors import ForbiddenError, MartletError
from martlet.ui.client import Json
from martlet.ui.course import UNFINISHED, Course, job_name, told
from martlet.ui.findings import findings
from martlet.ui.site import Choices, Site, Updates, page_of, unchanged
from martlet.ui.stops import Stops
from martlet.ui.train_layout import TrainLayout, Wishes

_LOOK_S = 0.5
_JOBS = "/v1/fine_tuning/jobs"
_EVENTS_A_LOOK = 100


class TrainTab:
    """Tuning jobs of the server. Made inside a tab of the page.

    Args:
        site: The shared parts.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._show = show = TrainLayout(site.words)
        self._looks = Stops()
        self._job = gr.State("")
        self.tuned = gr.State("")
        """The finished model of the job that is shown; empty before its end."""
        self.talk = show.talk
        told_to: dict[str, Any] = {
            "outputs": self.outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
            "trigger_mode": "multiple",  # a further job may be begun or shown while one is shown
        }
        files = [show.training, show.validation]
        dropped = [file.change for file in files]
        gr.on(dropped, self._examine, files, **{**told_to, "trigger_mode": "always_last"})
        show.start.click(self._run, [*files, *show.wishes], **told_to)
        show.jobs.input(self._follow, [show.jobs], **told_to)
        show.cancel.click(self._call_off, [self._job], None, concurrency_limit=None)

    @property
    def outputs(self) -> list[Any]:
        """All that an event of the tab may change."""
        return [self._job, self.tuned, *self._show.outputs]

    async def load(self, _browser: str, request: gr.Request) -> Updates:
        """What the tab shows when the page is opened: itself, or why it cannot be used."""
        show, words = self._show, self._site.words
        if self._site.doctor is None:
            return {show.missing: gr.Markdown(words["train_off"], visible=True)}
        with self._site.telling():
            try:
                jobs = await self._listed(request)
            except ForbiddenError:
                return {show.missing: gr.Markdown(words["train_no_key"], visible=True)}
        return {
            show.sides: gr.Row(visible=True),
            show.jobs: gr.Radio(choices=jobs, visible=bool(jobs)),
        }

    async def _examine(
        self, training: str | None, validation: str | None
    ) -> AsyncGenerator[Updates]:
        """Shows what is wrong with the rows; what is sound may be trained on."""
        show, words, doctor = self._show, self._site.words, self._site.doctor
        is_asked = training is not None and doctor is not None
        looking = f'<p class="hint">{words["rows_looking"]}</p>' if is_asked else ""
        yield {show.findings: looking, show.start: gr.Button(interactive=False)}
        if training is None or doctor is None:
            return
        try:
            checkup = await asyncio.to_thread(doctor.examine, Path(training), _path(validation))
        except MartletError as error:
            refused = f'<p class="stops">{escape(str(error))}</p>'
            yield {show.findings: f'<div class="findings">{refused}</div>'}
            return
        yield {
            show.findings: findings(words, checkup),
            show.start: gr.Button(interactive=checkup.diagnosis.is_sound),
            show.method: "dpo" if checkup.has_preferences else "supervised",
        }

    async def _run(
        self, request: gr.Request, training: str, validation: str | None, *wishes: Any
    ) -> AsyncGenerator[Updates]:
        start = self._show.start
        yield {start: gr.Button(interactive=False)}
        try:
            given = self._show.given(wishes)
            job = await self._create(Path(training), _path(validation), given, request)
        except MartletError as error:
            yield {start: gr.Button(interactive=True)}
            raise self._site.refusal(error) from error
        yield {start: gr.Button(interactive=True)}
        async with aclosing(self._follow(request, job["id"])) as steps:
            async for updates in steps:
                yield updates

    async def _create(
        self, training: Path, validation: Path | None, wishes: Wishes, request: gr.Request
    ) -> Json:
        client, key = self._site.client, self._site.key_of(request)
        files = {"training_file": training, "validation_file": validation}
        param_to_id = {}
        for param, path in files.items():
            if path is not None:
                file = await client.upload(path, name=path.name, purpose="fine-tune", key=key)
                param_to_id[param] = file["id"]
        base = (await self._site.models(request))[0]["id"]
        metadata = {"file_name": training.name[:512]}
        body = {"model": base, **param_to_id, **wishes.body(), "metadata": metadata}
        return await client.post(_JOBS, body, key=key)

    async def _follow(self, request: gr.Request, job_id: str) -> AsyncGenerator[Updates]:
        """Shows how a job is doing until it has ended, or until another is shown."""
        show, words, course, page = self._show, self._site.words, Course(), page_of(request)
        is_over = self._looks.begin(page)
        with self._site.telling():
            job = await self._look(job_id, course, request)
            yield {
                self._job: job_id,
                self.tuned: "",
                show.talk: gr.Button(visible=False),
                show.cancel: gr.Button(interactive=job["status"] in UNFINISHED),
                show.progress: told(words, job, course),
                show.jobs: await self._choices(job_id, request),
            }
            while job["status"] in UNFINISHED:
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), _LOOK_S)
                    yield unchanged()  # Gradio shows the last update once more at the end
                    return
                status, job = job["status"], await self._look(job_id, course, request)
                yield {show.progress: told(words, job, course)}
                if job["status"] != status:
                    yield {show.jobs: await self._choices(job_id, request)}
            yield {
                self.tuned: job["fine_tuned_model"] or "",
                show.talk: gr.Button(visible=job["fine_tuned_model"] is not None),
                show.cancel: gr.Button(interactive=False),
            }

    async def _look(self, job_id: str, course: Course, request: gr.Request) -> Json:
        """How a job is doing; what happened since the last look is added to its course."""
        client, key = self._site.client, self._site.key_of(request)
        job = await client.get(f"{_JOBS}/{job_id}", key=key)
        fresh: list[Json] = []
        query = f"limit={_EVENTS_A_LOOK}"
        while True:
            page = await client.get(f"{_JOBS}/{job_id}/events?{query}", key=key)
            ids = [event["id"] for event in page["data"]]
            num_fresh = ids.index(course.last_event) if course.last_event in ids else len(ids)
            fresh += page["data"][:num_fresh]
            if num_fresh < len(ids) or not page["has_more"]:
                break
            query = f"limit={_EVENTS_A_LOOK}&after={ids[-1]}"
        course.add(fresh[::-1])
        return job

    async def _call_off(self, request: gr.Request, job_id: str) -> None:
        with self._site.telling():
            path = f"{_JOBS}/{job_id}/cancel"
            await self._site.client.post(path, key=self._site.key_of(request))

    async def _choices(self, job_id: str, request: gr.Request) -> gr.Radio:
        return gr.Radio(choices=await self._listed(request), value=job_id, visible=True)

    async def _listed(self, request: gr.Request) -> Choices:
        page = await self._site.client.get(_JOBS, key=self._site.key_of(request))
        words = self._site.words
        return [
            (f"{job_name(job)} · {words['job_' + job['status']]}", job["id"])
            for job in page["data"]
        ]


def _path(dropped: str | None) -> Path | None:
    return None if dropped is None else Path(dropped)
