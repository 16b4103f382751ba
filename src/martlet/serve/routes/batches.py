"""`/v1/batches`: files of requests, answered beside the live ones."""

from collections.abc import Mapping
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request

from martlet.errors import ParameterError
from martlet.serve.batches.batch_service import BatchService
from martlet.serve.batches.lines import ENDPOINTS
from martlet.serve.batches.record import seconds_of
from martlet.serve.body import json_body, json_request
from martlet.serve.schema.batches import CreateBatch

router = APIRouter()


def batches_of(request: Request) -> BatchService:
    """The batches of the app that a request came to."""
    return cast(BatchService, request.app.state.batches)


BatchServiceDep = Annotated[BatchService, Depends(batches_of)]
"""A route's parameter that gets files and batches."""


@router.post("/v1/batches", openapi_extra=json_request(CreateBatch))
async def create_batch(
    batches: BatchServiceDep, body: Annotated[CreateBatch, Depends(json_body(CreateBatch))]
) -> Mapping[str, object]:
    """Takes a batch: all lines are checked, and then answered."""
    if body.endpoint not in ENDPOINTS:
        raise ParameterError(
            f"endpoint must be one of {', '.join(ENDPOINTS)}, not {body.endpoint!r}",
            param="endpoint",
        )
    if (seconds := seconds_of(body.completion_window)) is None:
        raise ParameterError(
            "completion_window is a number and m, h or d, such as '24h', not "
            f"{body.completion_window!r}",
            param="completion_window",
        )
    batch = await batches.create(
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        seconds=seconds,
        metadata=body.metadata,
    )
    return batch.as_json()


@router.get("/v1/batches")
async def list_batches(
    batches: BatchServiceDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> Mapping[str, object]:
    """The batches, the newest first."""
    return (await batches.page(limit=limit, after=after)).as_json()


@router.get("/v1/batches/{batch_id}")
async def get_batch(batch_id: str, batches: BatchServiceDep) -> Mapping[str, object]:
    """How one is doing."""
    return (await batches.get(batch_id)).as_json()


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: str, batches: BatchServiceDep) -> Mapping[str, object]:
    """Ends it early; rows that were answered keep their replies."""
    return (await batches.cancel(batch_id)).as_json()
