"""What an operator's machinery asks: alive, ready, and the meters."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from inkwash.serve.http.reply import answer
from inkwash.serve.http.service import Service

router = APIRouter()


@router.get("/livez")
async def livez() -> Response:
    """Whether the web process answers."""
    return answer({"status": "alive"})


@router.get("/readyz")
async def readyz(http: HttpRequest) -> Response:
    """200 when every worker has verified its weights and passed its self-test and golden image, and nobody drains; else 503.

    `files` says why pictures of jobs cannot be written; whoever waits for an image is served all the same.
    """
    service: Service = http.app.state.service
    found = {"status": "ready" if service.ready else "draining" if service.draining else "not ready",
             "files": http.app.state.runner.pause.code or "ok", "workers": {worker.name: worker.state for worker in service.workers}}
    return answer(found, 200 if service.ready else 503)


@router.get("/metrics")
async def metrics(http: HttpRequest) -> Response:
    """The meters, as Prometheus reads them."""
    service: Service = http.app.state.service
    return Response(generate_latest(service.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
