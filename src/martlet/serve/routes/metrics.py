"""`GET /metrics`, for Prometheus."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from martlet.serve.service import ServiceDep

router = APIRouter()


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceDep) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(generate_latest(service.meters.registry), media_type=CONTENT_TYPE_LATEST)
