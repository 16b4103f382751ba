"""What is known of a tuning job, from its creation to its end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal
from uuid import uuid4

from martlet.serve.batches.shelf import Json

Status = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
Level = Literal["info", "warn", "error"]
UNFINISHED: tuple[Status, ...] = ("validating_files", "queued", "running")
ORGANIZATION = "martlet"


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The adapter that a job ended with."""

    id: str
    created_at: int
    step: int
    train_loss: float | None
    valid_loss: float | None


@dataclass(frozen=True, kw_only=True)
class TuningJob:
    """A job as it is kept; times are seconds since 1970."""

    id: str
    created_at: int
    model: str
    """The base, by the name that the client gave it."""
    base_hash: str
    will_be: str
    """The name of the finished model."""
    training_file: str
    validation_file: str | None
    seed: int
    method: Json
    """As OpenAI's clients read it, with the values that `auto` stands for."""
    options: Json
    """Of `martlet train`, as the client gave them."""
    metadata: Mapping[str, str] | None = None
    status: Status = "queued"
    num_metrics: int = 0
    """Lines of the run's metrics that its events tell of."""
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    finished_at: int | None = None
    checkpoint: Checkpoint | None = None
    error: JobError | None = None

    @classmethod
    def from_body(cls, body: Json) -> "TuningJob":
        """Reads what `as_body` wrote."""
        given = dict(body)
        checkpoint, error = given.pop("checkpoint"), given.pop("error")
        return cls(
            **given,  # type: ignore[arg-type]
            checkpoint=None if checkpoint is None else Checkpoint(**checkpoint),  # type: ignore[arg-type]
            error=None if error is None else JobError(**error),  # type: ignore[arg-type]
        )

    def as_body(self) -> dict[str, object]:
        """All of it, as JSON can hold it."""
        return asdict(self)

    @property
    def is_unfinished(self) -> bool:
        return self.status in UNFINISHED

    @property
    def hyperparameters(self) -> Json:
        """Epochs, rows a batch, and the rate's multiplier."""
        settings: Json = self.method[str(self.method["type"])]  # type: ignore[assignment]
        return settings["hyperparameters"]  # type: ignore[return-value]

    def ended(self, status: Status, now: float, *, error: JobError | None = None) -> "TuningJob":
        """The job at its end."""
        return replace(
            self, status=status, finished_at=int(now), estimated_finish=None, error=error
        )

    def as_json(self) -> dict[str, object]:
        """As OpenAI's clients read it."""
        return {
            "id": self.id,
            "object": "fine_tuning.job",
            "created_at": self.created_at,
            "model": self.model,
            "fine_tuned_model": self.will_be if self.status == "succeeded" else None,
            "organization_id": ORGANIZATION,
            "status": self.status,
            "error": None if self.error is None else asdict(self.error),
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "result_files": [],
            "seed": self.seed,
            "method": self.method,
            "hyperparameters": self.hyperparameters,
            "trained_tokens": self.trained_tokens,
            "estimated_finish": self.estimated_finish,
            "finished_at": self.finished_at,
            "integrations": None,
            "metadata": self.metadata,
            "martlet": self.options,
        }

    def checkpoints_as_json(self) -> list[Json]:
        """What can be asked, as OpenAI's clients read it: the finished model, or nothing."""
        if (end := self.checkpoint) is None:
            return []
        metrics = {"step": end.step, "train_loss": end.train_loss, "valid_loss": end.valid_loss}
        return [
            {
                "id": end.id,
                "object": "fine_tuning.job.checkpoint",
                "created_at": end.created_at,
                "fine_tuning_job_id": self.id,
                "fine_tuned_model_checkpoint": self.will_be,
                "step_number": end.step,
                "metrics": {name: value for name, value in metrics.items() if value is not None},
            }
        ]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job."""

    created_at: int
    message: str
    level: Level = "info"
    data: Json = field(default_factory=dict)
    """Step and losses; empty for what is no measurement."""

    def as_body(self, job_id: str) -> dict[str, object]:
        """As OpenAI's clients read it."""
        return {
            "id": f"ftevent-{uuid4().hex}",
            "object": "fine_tuning.job.event",
            "created_at": self.created_at,
            "fine_tuning_job_id": job_id,
            "level": self.level,
            "message": self.message,
            "type": "metrics" if self.data else "message",
            "data": self.data,
        }
