"""The events of a job, until it ends: where it is in the line, its steps and previews, and how it ended.

While the job is in work here, its steps come as they are made. While it waits, or another server works on it, the store is asked every
second, and more rarely while it is slow. The first event says how things stand, so a watcher who comes late, or comes again, has missed
nothing that still matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from inkwash.serve.http.errors import ApiError, draining
from inkwash.serve.http.jobs import described, own
from inkwash.serve.http.reply import Events
from inkwash.serve.http.service import Service

POLL_SEC = 1.0
ALIVE_SEC = 15.0
BUSY = 5.0                                                 # so many times as long as the store took, watchers leave it alone
router = APIRouter(prefix="/v1/jobs")


@router.get("/{job}/events")
async def events(http: HttpRequest, job: str) -> Response:
    """job.queued, job.running, job.step, job.partial_image, and at the end job.done, job.failed or job.cancelled."""
    return await Events(http, watched(http, job)).response()


@contextlib.contextmanager
def counted(service: Service, owner: str) -> Iterator[None]:
    """A place among the streams of a key. Raises ApiError 429 `too_many_watchers`."""
    limit = service.settings.watchers_per_key
    if service.watchers[owner] >= limit:
        raise ApiError(429, "too_many_watchers", f"{limit} streams of events are open for you, as many as may be; close one, "
                                                 "or ask for the status of the job", retry_sec=5)
    service.watchers[owner] += 1
    try:
        yield
    finally:
        service.watchers[owner] -= 1
        service.watchers += Counter()                      # only those that have any are remembered


async def watched(http: HttpRequest, job: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(name, data). Raises ApiError 404; 429 `too_many_watchers`; 503 `draining` when this server leaves while the job waits."""
    service, runner = http.app.state.service, http.app.state.runner
    told: dict[str, Any] = {}
    spoken = 0.0
    with counted(service, http.scope["state"]["owner"]):
        while True:
            began = time.monotonic()
            found = await described(service, runner, await own(http, job))
            took = time.monotonic() - began
            if {**found, "estimate_sec": None} != told or time.monotonic() - spoken > ALIVE_SEC:
                told, spoken = {**found, "estimate_sec": None}, time.monotonic()
                yield f"job.{found['status']}", {"type": f"job.{found['status']}", "job": found}
            if found["status"] not in ("queued", "running"):
                return
            live = runner.live.get(job)
            if live is None:
                if service.draining:
                    raise draining()
                await asyncio.sleep(max(POLL_SEC, BUSY * took))
                continue
            async for name, data in live.watch():
                spoken = time.monotonic()
                yield name, {"type": name, **data}
