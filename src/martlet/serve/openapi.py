"""The server's own OpenAPI document."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def openapi_of(app: FastAPI) -> dict[str, object]:
    """FastAPI's document of an app, with the bodies that `json_body` reads."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for schema in _own_bodies(document["paths"]):
            schemas.update(schema.pop("$defs", {}))
        app.openapi_schema = document
    return app.openapi_schema


def _own_bodies(paths: dict[str, dict[str, dict[str, object]]]) -> Iterator[dict[str, object]]:
    for operations in paths.values():
        for operation in operations.values():
            match operation:
                case {"requestBody": {"content": {"application/json": {"schema": dict(schema)}}}}:
                    yield schema
