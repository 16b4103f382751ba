"""Adapters, coming and going while requests run: our own routes, and vLLM's two."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import PlainTextResponse

from martlet.errors import InputError, NotFoundError
from martlet.lora.store import AdapterInfo
from martlet.serve.adapter_paths import allowed_folder, check_name
from martlet.serve.body import json_body, json_request
from martlet.serve.catalog import adapters_of, list_adapters
from martlet.serve.routes.models import proof_of
from martlet.serve.schema.adapters import (
    LoadAdapter,
    PinAdapter,
    VllmLoadAdapter,
    VllmUnloadAdapter,
)
from martlet.serve.service import Service, ServiceDep

router = APIRouter()


@router.get("/v1/adapters")
async def list_all(service: ServiceDep) -> dict[str, object]:
    """All adapters, loaded or to be read again when they are asked for."""
    adapters = await service.engine.call(list_adapters)
    return {"object": "list", "data": [_card(adapter) for adapter in adapters]}


@router.get("/v1/adapters/{name}")
async def get(name: str, service: ServiceDep) -> dict[str, object]:
    """One of them."""
    return _card(await _find(service, name))


@router.post("/v1/adapters", openapi_extra=json_request(LoadAdapter))
async def load(
    service: ServiceDep, body: Annotated[LoadAdapter, Depends(json_body(LoadAdapter))]
) -> dict[str, object]:
    """Loads an adapter, or a new revision of one; it is refused unless it fits and acts."""
    await _load(service, body.name, body.path)
    if body.is_pinned:
        await _pin(service, body.name, is_pinned=True)
    return _card(await _find(service, body.name))


@router.patch("/v1/adapters/{name}", openapi_extra=json_request(PinAdapter))
async def pin(
    name: str, service: ServiceDep, body: Annotated[PinAdapter, Depends(json_body(PinAdapter))]
) -> dict[str, object]:
    """Keeps an adapter in memory, or lets go of it when room is needed."""
    await _find(service, name)
    await _pin(service, name, is_pinned=body.is_pinned)
    return _card(await _find(service, name))


@router.delete("/v1/adapters/{name}")
async def drop(name: str, service: ServiceDep) -> dict[str, object]:
    """Forgets an adapter; requests that began with it finish with it."""
    await _drop(service, name)
    return {"id": name, "object": "adapter", "deleted": True}


@router.post("/v1/load_lora_adapter", openapi_extra=json_request(VllmLoadAdapter))
async def load_as_vllm(
    service: ServiceDep, body: Annotated[VllmLoadAdapter, Depends(json_body(VllmLoadAdapter))]
) -> PlainTextResponse:
    """The same as `POST /v1/adapters`, for vLLM's clients."""
    if not body.load_inplace and body.lora_name in service.catalog.adapters:
        raise InputError(f"there is an adapter {body.lora_name!r} already")
    await _load(service, body.lora_name, body.lora_path)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", openapi_extra=json_request(VllmUnloadAdapter))
async def unload_as_vllm(
    service: ServiceDep, body: Annotated[VllmUnloadAdapter, Depends(json_body(VllmUnloadAdapter))]
) -> PlainTextResponse:
    """The same as `DELETE /v1/adapters/{name}`, for vLLM's clients."""
    await _drop(service, body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def _load(service: Service, name: str, path: str) -> None:
    check_name(name, base_names=service.catalog.base_names)
    folder = allowed_folder(path, service.settings.adapter_dirs)
    await service.load_adapter(name, folder)


async def _pin(service: Service, name: str, *, is_pinned: bool) -> None:
    await service.engine.call(lambda backend: adapters_of(backend).pin(name, is_pinned))


async def _drop(service: Service, name: str) -> None:
    await _find(service, name)
    await service.engine.call(lambda backend: adapters_of(backend).drop(name))
    await service.refresh_adapters()


async def _find(service: Service, name: str) -> AdapterInfo:
    for adapter in await service.engine.call(list_adapters):
        if adapter.name == name:
            return adapter
    known = ", ".join(service.catalog.adapters) or "none"
    raise NotFoundError(f"there is no adapter {name!r}; known: {known}")


def _card(adapter: AdapterInfo) -> dict[str, object]:
    return {
        "id": adapter.name,
        "object": "adapter",
        "path": str(adapter.path),
        **proof_of(adapter),
        "is_pinned": adapter.is_pinned,
        "is_loaded": adapter.is_loaded,
        "num_requests": adapter.num_requests,
    }
