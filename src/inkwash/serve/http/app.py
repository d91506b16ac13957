"""The application: routes inside, errors in one shape, the guard around all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from inkwash._version import __version__
from inkwash.serve.http import a1111, jobs, jobs_events, openai, probes
from inkwash.serve.http.errors import ApiError, ClientGone, internal
from inkwash.serve.http.guard import Guard
from inkwash.serve.http.jobs_run import Runner
from inkwash.serve.http.keys import Keys
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.query import known_query
from inkwash.serve.http.service import Service
from inkwash.serve.http.settings import Settings

UPLOADS = frozenset(("/v1/images/edits", "/v1/jobs", "/sdapi/v1/img2img", "/sdapi/v1/png-info"))
WAITING = frozenset(("/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img", "/sdapi/v1/img2img"))    # their callers wait for images


def create_app(settings: Settings) -> tuple[ASGIApp, Service]:
    """The ASGI application of a server, and what it works with. The workers start and stop with the application.

    Raises UsageError `bad_keys`, `two_models`; CheckpointError for a model that is not there; what `open_store` raises.
    """
    metrics = Metrics()
    keys = Keys(settings.keys) if settings.keys is not None else None
    service = Service(settings, metrics)
    runner = Runner(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        running = asyncio.create_task(runner.run())
        try:
            yield
        finally:
            running.cancel()
            await runner.stop()
            await service.stop()

    app = FastAPI(title="Inkwash", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.runner = service, runner
    for module in (openai, jobs, jobs_events, a1111):
        app.include_router(module.router, dependencies=[Depends(known_query)])
    app.include_router(probes.router)                      # whoever watches may say what it likes
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(Exception, _bug)

    def cap_of(path: str) -> int:
        return 1024 * (settings.upload_kib if path in UPLOADS else settings.body_kib)

    return Guard(app, settings, keys, metrics, cap_of, WAITING, service.require_any_room), service


async def _api_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    http.scope["state"]["code"] = error.code
    return error.response()


async def _http_error(http: HttpRequest, error: Exception) -> Response:
    """What the router raises: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    found = ApiError(error.status_code, code, {404: "there is nothing at this path", 405: "this path does not take that method"}.get(
        error.status_code, "the request cannot be read")).response()
    found.headers.update(error.headers or {})
    return found


async def _bad_query(http: HttpRequest, error: Exception) -> Response:
    """A value in the query of a URL that is not of its type."""
    assert isinstance(error, RequestValidationError)
    name = str(error.errors()[0]["loc"][-1])
    return await _api_error(http, ApiError(400, "invalid_value", f"{name} in the query has a wrong value", name))


async def _client_gone(http: HttpRequest, error: Exception) -> Response:
    http.scope["state"]["code"] = "client_gone"
    return Response(status_code=499)


async def _bug(http: HttpRequest, error: Exception) -> Response:
    return internal().response()
