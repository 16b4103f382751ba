"""`/v1/fine_tuning/jobs`: models tuned on uploaded rows, and served when they are done."""

from collections.abc import Mapping
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request

from martlet.errors import ForbiddenError, NotFoundError
from martlet.serve.batches.shelf import Page
from martlet.serve.body import json_body, json_request
from martlet.serve.schema.tuning import CreateTuning
from martlet.serve.tuning.tuning_service import TuningService

router = APIRouter(prefix="/v1/fine_tuning/jobs")


def tuning_of(request: Request) -> TuningService:
    """The tuning jobs of the app that a request came to.

    Raises:
        ForbiddenError: If there are none, since the operator named no folder for them.
    """
    tuning = cast(TuningService | None, request.app.state.tuning)
    if tuning is None:
        raise ForbiddenError("models are not tuned here; start the server with --tuning-dir DIR")
    return tuning


TuningDep = Annotated[TuningService, Depends(tuning_of)]
"""A route's parameter that gets the tuning jobs."""


@router.post("", openapi_extra=json_request(CreateTuning))
async def create_job(
    tuning: TuningDep, body: Annotated[CreateTuning, Depends(json_body(CreateTuning))]
) -> Mapping[str, object]:
    """Takes a job: its rows are checked, trained on, and what was trained is proven and served."""
    return (await tuning.create(body)).as_json()


@router.get("")
async def list_jobs(
    tuning: TuningDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> Mapping[str, object]:
    """The jobs, the newest first."""
    return (await tuning.page(limit=limit, after=after)).as_json()


@router.get("/{job_id}")
async def get_job(job_id: str, tuning: TuningDep) -> Mapping[str, object]:
    """How one is doing."""
    return (await tuning.get(job_id)).as_json()


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: str, tuning: TuningDep) -> Mapping[str, object]:
    """Ends it early."""
    return (await tuning.cancel(job_id)).as_json()


@router.get("/{job_id}/events")
async def list_events(
    job_id: str,
    tuning: TuningDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after: str | None = None,
) -> Mapping[str, object]:
    """What happened to it, the newest first."""
    return (await tuning.events(job_id, limit=limit, after=after)).as_json()


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: str,
    tuning: TuningDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    after: str | None = None,
) -> Mapping[str, object]:
    """What of it can be asked: nothing, and from its end on the finished model."""
    checkpoints = (await tuning.get(job_id)).checkpoints_as_json()
    ids = [checkpoint["id"] for checkpoint in checkpoints]
    if after is None:
        return Page(bodies=checkpoints[:limit], has_more=False).as_json()
    if after not in ids:
        raise NotFoundError(f"there is no checkpoint {after!r}")
    return Page(bodies=[], has_more=False).as_json()
