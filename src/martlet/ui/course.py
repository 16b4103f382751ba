"""A tuning job as it goes: what its events have told so far, and how far it is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from martlet.ui.client import Json
from martlet.ui.curve import curve
from martlet.ui.site import Words

UNFINISHED = ("validating_files", "queued", "running")


@dataclass(kw_only=True)
class Course:
    """What is known of a job; grows with its events."""

    training: dict[int, float] = field(default_factory=dict)
    """Loss by step; of a step that was done twice, the later."""
    validation: dict[int, float] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    """What the server said of it beside the losses, the oldest first."""
    step: int = 0
    num_steps: int = 0
    last_event: str | None = None
    """The id of the newest event that is known."""

    def add(self, events: Sequence[Json]) -> None:
        """Takes in what happened since.

        Args:
            events: The oldest first.
        """
        for event in events:
            self.last_event = event["id"]
            if event["type"] == "metrics":
                self._measure(event["data"])
            else:
                self.sentences.append(event["message"])

    def _measure(self, data: Json) -> None:
        self.step, self.num_steps = int(data["step"]), int(data["total_steps"])
        if "train_loss" in data:
            self.training[self.step] = data["train_loss"]
        if "valid_loss" in data:
            self.validation[self.step] = data["valid_loss"]


def job_name(job: Json) -> str:
    """The finished model, or else the file that was dropped, or else the job's own id."""
    file_name = (job.get("metadata") or {}).get("file_name")
    return str(job["fine_tuned_model"] or file_name or job["id"])


def told(words: Words, job: Json, course: Course) -> str:
    """How far a job is, its losses, and what the server said of it, as HTML."""
    width = 100 * course.step / course.num_steps if course.num_steps else 0
    failed = f'<p class="stops">{escape(job["error"]["message"])}</p>' if job["error"] else ""
    sentences = "".join(f"<p>{escape(each)}</p>" for each in course.sentences)
    return (
        f'<div class="bars"><h3>{escape(job_name(job))}: {words["job_" + job["status"]]}</h3>'
        f'<div class="bar"><span class="track"><span style="width:{width:.1f}%"></span></span>'
        f"</div><p>{_figures(words, job, course)}</p>"
        f"{failed}{curve(words, course.training, course.validation, course.num_steps)}"
        f"<details><summary>{words['job_log']}</summary>"
        f"{sentences}</details></div>"
    )


def _figures(words: Words, job: Json, course: Course) -> str:
    parts = []
    if course.num_steps:
        parts.append(words["job_steps"].format(step=course.step, num_steps=course.num_steps))
    if (end := job.get("estimated_finish")) is not None and job["status"] in UNFINISHED:
        parts.append(words["job_left"].format(_clock(max(0, end - time.time()))))
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
