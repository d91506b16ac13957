"""The Images API of OpenAI: `POST /v1/images/generations` and `/v1/images/edits`, whole or as a stream, and `GET /v1/models`.

What an image depends on beyond the prompt comes back with it (seed, steps taken as nfe, hash of its pixels), and whatever of the request had
no effect stands in `warnings`. In `usage`, input tokens are those of the prompts, and output tokens count network evaluations.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from inkwash.request import Request
from inkwash.serve.http.backend import Accepted, Made, Order, Preview, Wish
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.fields import ALIASES, Generation, inert_fields, read_fields, requests_of, wish_of
from inkwash.serve.http.idempotency import Once, once, served
from inkwash.serve.http.raster import Start
from inkwash.serve.http.reply import Events, answer, json_body, unless_gone
from inkwash.serve.http.service import Model, Service
from inkwash.serve.http.uploads import Edit, form_body, start_of

router = APIRouter()
FILES = {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
FORM = Edit.model_json_schema()
FORM = {**FORM, "properties": {**FILES, **FORM["properties"]}, "required": ["image", *FORM["required"]]}
EDIT: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}}
BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/json": {"schema": Generation.model_json_schema()}}}}


@router.get("/v1/models")
async def models(http: HttpRequest) -> Response:
    """The models of this server."""
    service: Service = http.app.state.service
    return answer({"object": "list", "data": [card(name, model, service) for name, model in service.models.items()]})


@router.get("/v1/models/{name}")
async def model(http: HttpRequest, name: str) -> Response:
    """One model: its sizes, defaults, licence, and whether its bits are exact."""
    service: Service = http.app.state.service
    return answer(card(name, service.model(name), service))


def card(name: str, model: Model, service: Service) -> dict[str, Any]:
    """What is told about a model."""
    facts, usual = model.facts, model.info.defaults
    return {"id": name, "object": "model", "created": service.started, "owned_by": "inkwash", "hash": facts.get("hash"),
            "determinism": facts.get("determinism"), "ready": all(worker.state == "ready" for worker in model.workers),
            "sizes": {"default": "{}x{}".format(*model.info.sizes.default), "least": model.info.sizes.least, "most": model.info.sizes.most,
                      "multiple": model.info.sizes.multiple},
            "defaults": {"steps": usual.steps, "sampler": usual.sampler, "spacing": usual.spacing, "guidance": usual.guidance},
            "license": model.info.card.get("license")}


@router.post("/v1/images/generations", openapi_extra=BODY)
async def generations(http: HttpRequest) -> Response:
    """Pictures from a sentence."""
    body = {name: value for name, value in (await json_body(http)).items() if value is not None}
    return await respond(http, read_fields(Generation, body, ALIASES), body, None, once(http, body, {}))


@router.post("/v1/images/edits", openapi_extra=EDIT)
async def edits(http: HttpRequest) -> Response:
    """Pictures from a picture and a sentence."""
    body, files = await form_body(http)
    asked = read_fields(Edit, body, ALIASES)
    return await respond(http, asked, body, await start_of(asked, files), once(http, body, files))


async def respond(http: HttpRequest, asked: Generation, body: dict[str, Any], start: Start | None, keyed: Once | None) -> Response:
    """The answer to a request of the Images API; `body` has its fields as the caller named them."""
    service: Service = http.app.state.service
    model = service.model(asked.model)
    requests = requests_of(asked, model.info, body)
    if service.settings.log_prompts:
        http.scope["state"]["log"] = {"prompt": asked.prompt}
    work = Work(service, model, requests, http.scope["state"]["owner"], asked, inert_fields(asked), start)
    del start
    if asked.stream:
        known = None if keyed is None else await keyed.replay()
        return known or await Events(http, work.events(), keyed).response()

    async def make() -> Response:
        return answer(await unless_gone(http, work.whole()))

    return await served(keyed, make)


class Work:
    """One request of the Images API, in work."""

    def __init__(self, service: Service, model: Model, requests: list[Request], owner: str, asked: Generation, warnings: list[str],
                 start: Start | None) -> None:
        self.service = service
        self.model = model
        self.requests = requests
        self.owner = owner
        self.warnings = warnings
        self.start = start
        self.kind = "image_generation" if start is None else "image_edit"
        self.deadline_sec = service.settings.deadline_sec if asked.deadline_ms is None else asked.deadline_ms / 1000
        self.wish: Wish = wish_of(asked, steps_of(requests[0], start))
        self.common = common_of(requests[0], self.wish, model)

    def _working(self) -> AbstractAsyncContextManager[list[Order]]:
        """The orders. The pixels to start from go to the worker and are not kept here."""
        start, self.start = self.start, None
        return self.service.working(self.model, self.requests, self.owner, self.deadline_sec, self.wish, start)

    async def whole(self) -> dict[str, Any]:
        """The answer without a stream."""
        async with self._working() as orders:
            made = [await finished(order) for order in orders]
        return whole(made, self.common, self.warnings, int(time.time()))

    async def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The events of a stream; with several images, `image_index` says whose they are."""
        merged: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        async with self._working() as orders:
            readers = [asyncio.ensure_future(_forward(i, order, merged)) for i, order in enumerate(orders)]
            try:
                partials, missing = [0] * len(orders), len(orders)
                while missing:
                    i, event = await merged.get()
                    if isinstance(event, ApiError):
                        raise event
                    if isinstance(event, Accepted):
                        yield "", {}
                    if isinstance(event, Preview):
                        yield self._event(f"{self.kind}.partial_image", i, event.data, {"partial_image_index": partials[i], "step": event.step})
                        partials[i] += 1
                    if isinstance(event, Made):
                        missing -= 1
                        facts = {name: value for name, value in picture(event).items() if name != "b64_json"}
                        texts = list(dict.fromkeys([*self.warnings, *event.facts["warnings"]]))
                        yield self._event(f"{self.kind}.completed", i, event.data,
                                          {**facts, "usage": usage([event]), "determinism": event.facts["determinism"], "warnings": texts})
            finally:
                for reader in readers:
                    reader.cancel()

    def _event(self, name: str, image: int, data: bytes, more: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return name, {"type": name, "b64_json": base64.b64encode(data).decode(), "created_at": int(time.time()), **self.common,
                      "image_index": image, **more}


async def _forward(i: int, order: Order, merged: asyncio.Queue[tuple[int, Any]]) -> None:
    try:
        async for event in order.each():
            merged.put_nowait((i, event))
    except ApiError as error:
        merged.put_nowait((i, error))


async def finished(order: Order) -> Made:
    """The image. Raises ApiError when there will be none."""
    async for event in order.each():
        if isinstance(event, Made):
            return event
    raise AssertionError("an order ends with its image or an error")


def steps_of(first: Request, start: Start | None) -> int:
    """Steps that are made: with a picture to start from, the last ones only."""
    return first.steps if start is None else max(1, round(start.strength * first.steps))


def common_of(first: Request, wish: Wish, model: Model) -> dict[str, Any]:
    """What all pictures of a request have in common."""
    size = f"{first.width}x{first.height}"
    return {"background": "opaque", "output_format": wish.format, "quality": "auto", "size": size, "model": model.info.name}


def whole(made: list[Made], common: dict[str, Any], warnings: list[str], created: int) -> dict[str, Any]:
    """The answer with all pictures."""
    texts = list(dict.fromkeys([*warnings, *(text for one in made for text in one.facts["warnings"])]))
    return {"created": created, "data": [picture(one) for one in made], **common, "usage": usage(made),
            "determinism": made[0].facts["determinism"], "warnings": texts}


def picture(made: Made) -> dict[str, Any]:
    """One entry of `data`."""
    return {"b64_json": base64.b64encode(made.data).decode(), **{name: made.facts[name] for name in ("seed", "nfe", "pixel_sha256")}}


def usage(made: list[Made]) -> dict[str, Any]:
    """Tokens in the sense of the API; an evaluation of the network counts as a token of output."""
    text = sum(one.facts["tokens"] for one in made)
    nfe = sum(one.facts["nfe"] for one in made)
    return {"input_tokens": text, "input_tokens_details": {"text_tokens": text, "image_tokens": 0}, "output_tokens": nfe, "total_tokens": text + nfe}
