"""`/v1/files`: what batches read and write, and what tuning jobs learn from."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse

from martlet.serve.batches.shelf import Order
from martlet.serve.routes.batches import BatchServiceDep

router = APIRouter()

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"enum": ["batch", "fine-tune"]},
                    },
                }
            }
        },
    }
}


@router.post("/v1/files", openapi_extra=_FORM)
async def upload_file(request: Request, batches: BatchServiceDep) -> Mapping[str, object]:
    """Keeps a file: requests for a batch, or rows for a tuning job."""
    return await batches.files.upload(request)


@router.get("/v1/files")
async def list_files(
    batches: BatchServiceDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    order: Order = "desc",
    purpose: str | None = None,
) -> Mapping[str, object]:
    """The files, the newest first unless told."""
    page = await batches.files.page(limit=limit, after=after, order=order, purpose=purpose)
    return page.as_json()


@router.get("/v1/files/{file_id}")
async def get_file(file_id: str, batches: BatchServiceDep) -> Mapping[str, object]:
    """What is known of one."""
    return await batches.files.get(file_id)


@router.get("/v1/files/{file_id}/content")
async def get_content(file_id: str, batches: BatchServiceDep) -> FileResponse:
    """What it holds."""
    path = await batches.files.path_of(file_id)
    return FileResponse(path, media_type="application/jsonl")


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, batches: BatchServiceDep) -> Mapping[str, object]:
    """Forgets it, unless a batch still reads it."""
    await batches.files.delete(file_id)
    return {"id": file_id, "object": "file", "deleted": True}
