"""Whether the server lives, and whether it takes requests."""

from fastapi import APIRouter

from martlet import __version__
from martlet.errors import UnavailableError
from martlet.serve.service import ServiceDep

router = APIRouter()


@router.get("/health")
async def health(service: ServiceDep) -> dict[str, str]:
    """Alive: 503 once the engine's thread has ended by itself."""
    if service.engine.failure is not None:
        raise UnavailableError(f"the engine has stopped: {service.engine.failure}")
    return {"status": "ok"}


@router.get("/ready")
async def ready(service: ServiceDep) -> dict[str, str]:
    """Takes requests: 503 while it drains, is full or has failed."""
    service.engine.check_room(1)
    return {"status": "ready"}


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of Martlet."""
    return {"version": __version__}
