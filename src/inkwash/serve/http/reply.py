"""How routes read and answer: JSON bodies in, JSON or events out, and the client watched meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from inkwash.serve.http.errors import ApiError, ClientGone, internal
from inkwash.serve.http.strict import read_object

if TYPE_CHECKING:
    from inkwash.serve.http.idempotency import Once

Result = TypeVar("Result")
EVENTS = "text/event-stream"
ALIVE_SEC = 15.0                                           # of silence, after which a stream says that it is alive: proxies close those that do not
ALIVE = b": open\n\n"
LOG = logging.getLogger("inkwash.serve")


async def json_body(http: HttpRequest) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError 415 `unsupported_media_type`, 400 `invalid_json`."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", "send JSON with the header Content-Type: application/json")
    return read_object(await http.body())


def answer(content: object, status: int = 200) -> Response:
    """JSON in ASCII."""
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


async def gone(http: HttpRequest) -> None:
    """Returns when the client has closed its connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientGone."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone(http))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class Events:
    """A stream of events whose first one is awaited before the answer begins, so that a refusal still has its status.

    `steps` gives (name, data), or ("", {}) for a line that only says that the stream is alive; a later ApiError becomes an event of its own,
    in the form that the OpenAI client raises. With an Idempotency-Key, `keyed` keeps the stream once it is whole.
    """

    def __init__(self, http: HttpRequest, steps: AsyncIterator[tuple[str, dict[str, Any]]], keyed: Once | None = None) -> None:
        self.http = http
        self.steps = steps
        self.keyed = keyed

    async def response(self) -> Response:
        """The answer. Raises what the first step raises."""
        queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        producer = asyncio.ensure_future(self._produce(queue))
        watch = asyncio.ensure_future(gone(self.http))
        watch.add_done_callback(lambda _: producer.cancel())
        first = await queue.get()
        if isinstance(first, BaseException):
            watch.cancel()
            raise first
        return StreamingResponse(self._drain(first, queue, producer, watch), media_type=EVENTS, headers={"x-accel-buffering": "no"})

    async def _produce(self, queue: asyncio.Queue[bytes | BaseException | None]) -> None:
        begun, told = False, list[bytes]()
        try:
            async for name, data in self.steps:
                event = f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode() if name else ALIVE
                queue.put_nowait(event)
                begun = True
                if self.keyed is not None:
                    told.append(event)
            if self.keyed is not None:
                await self.keyed.keep(200, EVENTS, b"".join(told))
            queue.put_nowait(None)
        except ApiError as error:
            self._drop()
            if begun:
                queue.put_nowait(b"event: error\ndata: " + error.content() + b"\n\n")
            queue.put_nowait(None if begun else error)
        except Exception as error:                         # a bug, which whoever waits must not wait for
            self._drop()
            LOG.exception("a bug", extra={"fields": {"id": self.http.scope["state"]["request_id"]}})
            if begun:
                queue.put_nowait(b"event: error\ndata: " + internal().content() + b"\n\n")
            queue.put_nowait(None if begun else error)
        except asyncio.CancelledError:
            self._drop()
            queue.put_nowait(None if begun else ClientGone())
            raise

    def _drop(self) -> None:
        if self.keyed is not None:
            self.keyed.drop()

    async def _drain(self, first: bytes | None, queue: asyncio.Queue[bytes | BaseException | None], producer: asyncio.Future[None],
                     watch: asyncio.Future[None]) -> AsyncIterator[bytes]:
        item: bytes | BaseException | None = first
        try:
            while isinstance(item, bytes):
                yield item
                try:
                    async with asyncio.timeout(ALIVE_SEC):
                        item = await queue.get()
                except TimeoutError:
                    item = ALIVE
        finally:
            if watch.done() and not watch.cancelled():
                self.http.scope["state"]["code"] = "client_gone"
            watch.cancel()
            producer.cancel()
            await asyncio.gather(producer, watch, return_exceptions=True)
