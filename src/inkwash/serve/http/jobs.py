"""Jobs: requests that nobody waits for on a connection. Submit, list, look, watch, cancel, fetch.

A job is acknowledged (202) when it is on the disk. From then on it is made once, whatever dies meanwhile. Its requests are settled at that moment,
a random seed too, so that it is the same job after a restart. A job is seen by its own key only; of any other there is nothing to be found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import Row
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from inkwash.request import Request
from inkwash.serve.http.admission import require_room
from inkwash.serve.http.backend import Made
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.fields import ALIASES, Generation, inert_fields, read_fields, requests_of, wish_of
from inkwash.serve.http.idempotency import in_work, once
from inkwash.serve.http.jobs_run import Runner
from inkwash.serve.http.openai import BODY, EDIT, common_of, steps_of, whole
from inkwash.serve.http.raster import Start
from inkwash.serve.http.reply import answer, json_body
from inkwash.serve.http.service import Model, Service
from inkwash.serve.http.uploads import Edit, form_body, start_of
from inkwash.serve.store.answers import Answer, InWork
from inkwash.serve.store.jobs import ID, Ahead, Image, New, new_id

router = APIRouter(prefix="/v1/jobs")
Status = Literal["queued", "running", "done", "failed", "cancelled"]


@router.post("", openapi_extra={"requestBody": {"required": True, "content": {**BODY["requestBody"]["content"], **EDIT["requestBody"]["content"]}}})
async def submit(http: HttpRequest) -> Response:
    """Takes in a job: the body of `/v1/images/generations`, or the form of `/v1/images/edits`."""
    service: Service = http.app.state.service
    asked, body, files = await read(http)
    model = service.model(asked.model)
    start = await start_of(asked, files) if isinstance(asked, Edit) else None
    new = new_job(service, model, http.scope["state"]["owner"], asked, body, start)
    keyed = once(http, body, files)
    if keyed is not None and (known := await keyed.replay()) is not None:
        return located(known)
    try:
        new, ahead = await admit(service, model, new, start)
        if start is not None:
            await service.filed(service.store.files.put, new.work["files"][0], start.body)
        told = {**summary(new.id, "queued", new), **forecast(model, ahead, new.cost)}
        found = answer(told, 202)
        kept = None if keyed is None else (keyed.key, Answer(202, "application/json", bytes(found.body)))
        try:
            await service.stored(add_within, service, new, kept)
        except (ApiError, InWork):                         # nothing else would ever delete it
            await service.filed(service.store.files.delete, new.work["files"])
            raise
        if keyed is not None:
            keyed.kept()
    except InWork:
        raise in_work() from None
    except BaseException:
        if keyed is not None:
            keyed.drop()
        raise
    http.app.state.runner.wake.set()
    return located(found)


def located(found: Response) -> Response:
    """The answer, with the path of the job that it tells of."""
    found.headers["location"] = f"/v1/jobs/{json.loads(bytes(found.body))['id']}"
    return found


async def read(http: HttpRequest) -> tuple[Generation, dict[str, Any], dict[str, bytes]]:
    """(what is asked, its fields as they were written, files) of a body in JSON or of a form. Raises ApiError."""
    service: Service = http.app.state.service
    if http.headers.get("content-type", "").startswith("multipart/"):
        body, files = await form_body(http)
        return read_fields(Edit, body, ALIASES), body, files
    if len(await http.body()) > 1024 * service.settings.body_kib:
        raise ApiError(413, "body_too_large", f"a body in JSON may have at most {1024 * service.settings.body_kib} bytes")
    body = {name: value for name, value in (await json_body(http)).items() if value is not None}
    return read_fields(Generation, body, ALIASES), body, {}


def new_job(service: Service, model: Model, owner: str, asked: Generation, body: dict[str, Any], start: Start | None) -> New:
    """The job that a body asks for, its cost not yet known. Raises ApiError 400."""
    requests = requests_of(asked, model.info, body)
    limit = min(service.settings.queue, service.settings.of_key(service.settings.queue_per_key))
    require_room(0, 0, len(requests), limit, limit, 0.0)
    warnings = inert_fields(asked.model_copy(update={"stream": True}))
    warnings += ["stream is inert: every job has events"] if asked.stream is not None else []
    wish = wish_of(asked.model_copy(update={"stream": True}), steps_of(requests[0], start))
    job = new_id()
    work = {"requests": [dataclasses.asdict(one) for one in requests], "wish": list(wish), "common": common_of(requests[0], wish, model),
            "start": start and start.head, "files": [] if start is None else [f"jobs/{job}/start.raw"]}
    deadline_sec = None if asked.deadline_ms is None else asked.deadline_ms / 1000
    return New(job, owner, model.info.name, work, 0.0, 0, warnings, time.time(), deadline_sec)


async def admit(service: Service, model: Model, new: New, start: Start | None) -> tuple[New, Ahead]:
    """The job with its cost, and what is before it. Raises ApiError 400 for what the model cannot make, 429 and 503 for what is too much."""
    requests, jobs = [Request(**one) for one in new.work["requests"]], service.store.jobs
    cost, steps = await service.ready_worker(model, patient=True).check(requests[0], start)
    new = new._replace(cost=cost * len(requests), total=steps * len(requests))
    await service.stored(require_place, service, new.owner)
    ahead = await service.stored(jobs.ahead, model.info.name, new.owner)
    wait = forecast(model, ahead, new.cost)["estimate_sec"]
    if new.deadline_sec is not None and wait is not None and wait > new.deadline_sec:
        raise ApiError(503, "deadline_unreachable", f"finished after about {wait:.3g} s, and the deadline is {new.deadline_sec:.3g} s; "
                                                    "try again later", retry_sec=wait - new.deadline_sec)
    return new, ahead


def require_place(service: Service, owner: str) -> None:
    """Raises ApiError 429 and 503 when there are as many jobs as there may be, of this key or in all."""
    jobs, settings = service.store.jobs, service.settings
    if jobs.count(owner) >= settings.of_key(settings.jobs_per_key):
        raise ApiError(429, "too_many_jobs", f"{settings.jobs_per_key} jobs of yours wait or run; try again later", retry_sec=10)
    if jobs.count() >= settings.jobs:
        raise ApiError(503, "server_overloaded", f"{settings.jobs} jobs wait or run; try again later", retry_sec=10)


def add_within(service: Service, new: New, kept: tuple[str, Answer] | None) -> None:
    """Keeps a job if there is still a place: others may have come since it was admitted. To be called where the database is, one at a time."""
    require_place(service, new.owner)
    service.store.jobs.add(new, kept)


def forecast(model: Model, ahead: Ahead, cost: float) -> dict[str, Any]:
    """Jobs before this one, and the seconds until it is done at the workers' measured rates; null while those are not known."""
    ready = [worker for worker in model.workers if worker.state == "ready" and worker.rate.value]
    rate = sum(worker.rate.value for worker in ready)
    rows = sum(worker.backlog for worker in ready) + ahead.rows + cost
    return {"position": ahead.jobs, "estimate_sec": round(rows / rate, 2) if rate else None}


def summary(job: str, status: str, found: New | Row[Any]) -> dict[str, Any]:
    """What does not change about a job, and its status."""
    first = found.work["requests"][0]
    return {"id": job, "object": "job", "status": status, "created_at": int(found.created), **found.work["common"], "n": len(found.work["requests"]),
            "seed": first["seed"], "steps": first["steps"], "done": 0, "total": found.total, "warnings": found.warnings}


async def described(service: Service, runner: Runner, row: Row[Any], line: bool = True) -> dict[str, Any]:
    """All that is told about a job; its place in the line costs a look at the whole line."""
    live = runner.live.get(row.id)
    found = {**summary(row.id, row.status, row), "done": row.done if live is None else live.done}
    model = service.models.get(row.model)
    if row.status == "queued" and line:
        ahead = await service.stored(service.store.jobs.ahead, row.model, row.owner, row.number)
        found |= forecast(model, ahead, row.cost) if model is not None else {"position": ahead.jobs, "estimate_sec": None}
    if row.status == "running":
        left = row.cost * (1 - found["done"] / max(1, row.total))
        found |= {"position": 0, "estimate_sec": forecast(model, Ahead(0, 0.0), 0.0 if live else left)["estimate_sec"] if model is not None else None}
    found |= {f"{name}_at": int(getattr(row, name)) for name in ("started", "finished") if getattr(row, name) is not None}
    return found if row.error is None else {**found, "error": {"code": row.error["code"], "message": row.error["message"]}}


async def own(http: HttpRequest, job: str) -> Row[Any]:
    """A job of the caller's key. Raises ApiError 404 `job_not_found`."""
    service: Service = http.app.state.service
    row = await service.stored(service.store.jobs.get, job, http.scope["state"]["owner"]) if ID.fullmatch(job) else None
    if row is None:
        raise ApiError(404, "job_not_found", "there is no such job of yours; one that ended long ago is forgotten")
    return row


@router.get("")
async def mine(http: HttpRequest, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None,
               status: Status | None = None) -> Response:
    """The caller's jobs, the newest first; `after` is the last id of the page before."""
    service: Service = http.app.state.service
    number = None if after is None else (await own(http, after)).number
    rows = await service.stored(service.store.jobs.page, http.scope["state"]["owner"], limit + 1, number, status)
    data = [await described(service, http.app.state.runner, row, line=False) for row in rows[:limit]]
    return answer({"object": "list", "data": data, "has_more": len(rows) > limit})


@router.get("/{job}")
async def look(http: HttpRequest, job: str) -> Response:
    """One job: status, steps made, jobs before it, seconds until it is done."""
    return answer(await described(http.app.state.service, http.app.state.runner, await own(http, job)))


@router.post("/{job}/cancel")
async def cancel(http: HttpRequest, job: str) -> Response:
    """Ends a job before its next step. Raises ApiError 409 `job_ended` where it is done or has failed."""
    service: Service = http.app.state.service
    row = await own(http, job)
    if await service.stored(service.store.jobs.cancel, row.id, row.owner):
        http.app.state.runner.cancel(row.id)
    row = await own(http, job)
    if row.status != "cancelled":
        raise ApiError(409, "job_ended", f"the job is {row.status} already")
    return answer(await described(service, http.app.state.runner, row))


@router.get("/{job}/result")
async def result(http: HttpRequest, job: str) -> Response:
    """The answer of `/v1/images/generations`, with the pictures. Raises ApiError 409 `job_not_done`, or what made the job fail."""
    service: Service = http.app.state.service
    row = await own(http, job)
    made = [Made(await picture_file(service, one), one.facts) for one in await finished(service, row)]
    return answer(whole(made, row.work["common"], row.warnings, int(row.finished)))


@router.get("/{job}/images/{place}")
async def picture(http: HttpRequest, job: str, place: int) -> Response:
    """One picture, as a file."""
    service: Service = http.app.state.service
    row = await own(http, job)
    found = await finished(service, row)
    if not 0 <= place < len(found):
        raise ApiError(404, "not_found", f"the job has {len(found)} pictures, counted from 0")
    return Response(await picture_file(service, found[place]), media_type=f"image/{row.work['common']['output_format']}")


async def finished(service: Service, row: Row[Any]) -> list[Image]:
    """The pictures of a job that is done. Raises ApiError 409, or what made it fail."""
    if row.status == "failed":
        raise ApiError(row.error["status"], row.error["code"], row.error["message"])
    if row.status == "cancelled":
        raise ApiError(409, "cancelled", "the job was cancelled")
    if row.status != "done":
        raise ApiError(409, "job_not_done", f"the job is {row.status}; watch /v1/jobs/{row.id}/events, or ask for its status")
    return await service.stored(service.store.jobs.images, row.id)


async def picture_file(service: Service, image: Image) -> bytes:
    """The bytes of a picture. Raises ApiError 410 `picture_gone` where the file is gone or was changed."""
    data = await service.filed(service.store.files.get, image.path)
    if data is None or hashlib.sha256(data).hexdigest() != image.sha256:
        raise ApiError(410, "picture_gone", "the file of this picture is gone or was changed; its seed and settings make it again")
    return data
