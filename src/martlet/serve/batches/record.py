"""What is known of a batch, from its creation to its end."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from martlet.serve.batches.shelf import Json

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
UNFINISHED: Sequence[Status] = ("validating", "in_progress", "finalizing", "cancelling")
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([mhd])", re.ASCII)
_UNIT_TO_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, kw_only=True)
class LineError:
    """What is wrong with a batch, or with a line of its input file."""

    line: int | None
    """Counted from 1; None for the batch as a whole."""
    message: str
    code: str
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Rows of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of the rows that a batch completed."""

    num_prompt: int = 0
    num_cached: int = 0
    num_drawn: int = 0

    def as_json(self) -> Json:
        """As OpenAI's clients read it."""
        return {
            "input_tokens": self.num_prompt,
            "input_tokens_details": {"cached_tokens": self.num_cached},
            "output_tokens": self.num_drawn,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.num_prompt + self.num_drawn,
        }


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch as it is kept; times are seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    expires_at: int
    metadata: Mapping[str, str] | None = None
    models: Sequence[str] = ()
    """What the rows ask for; known once they were checked."""
    errors: Sequence[LineError] = ()
    counts: Counts = field(default_factory=Counts)
    usage: Usage | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    status_to_time: Mapping[str, int] = field(default_factory=dict)
    """When it came to each status behind the first."""

    @classmethod
    def from_body(cls, body: Json) -> "Batch":
        """Reads what `as_body` wrote."""
        given = dict(body)
        errors = [LineError(**error) for error in given.pop("errors")]  # type: ignore[attr-defined]
        counts = Counts(**given.pop("counts"))  # type: ignore[arg-type]
        usage = given.pop("usage")
        return cls(
            **given,  # type: ignore[arg-type]
            errors=errors,
            counts=counts,
            usage=None if usage is None else Usage(**usage),  # type: ignore[arg-type]
        )

    def as_body(self) -> dict[str, object]:
        """All of it, as JSON can hold it."""
        return asdict(self)

    @property
    def is_unfinished(self) -> bool:
        return self.status in UNFINISHED

    def came_to(self, status: Status, now: float) -> "Batch":
        """The batch in its next status; the time of the first arrival stays."""
        times = {status: int(now), **self.status_to_time}
        return replace(self, status=status, status_to_time=times)

    def as_json(self) -> dict[str, object]:
        """As OpenAI's clients read it; what is not known yet is left out."""
        fields: dict[str, object | None] = {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.models[0] if len(self.models) == 1 else None,
            "errors": _as_list(self.errors) if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{f"{status}_at": at for status, at in self.status_to_time.items()},
            "request_counts": asdict(self.counts),
            "usage": None if self.usage is None else self.usage.as_json(),
        }
        # Only the metadata may be null in OpenAI's document.
        known = {name: value for name, value in fields.items() if value is not None}
        return {**known, "metadata": self.metadata}


def seconds_of(window: str) -> int | None:
    """How long a completion window such as `24h` lasts; None for what is none."""
    if (match := _WINDOW.fullmatch(window)) is None:
        return None
    return int(match[1]) * _UNIT_TO_SECONDS[match[2]]


def _as_list(errors: Sequence[LineError]) -> Json:
    return {"object": "list", "data": [asdict(error) for error in errors]}
