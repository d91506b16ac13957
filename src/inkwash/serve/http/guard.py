"""The outermost layer: every byte of every request passes here first, on every method and path.

    Host      a name that this server has, so that no page can rebind its own name to us
    Origin    absent, our own or an allowed one; "null" is nobody; Sec-Fetch-Site must agree
    key       when keys are set: before any route is looked up, so that nothing can be probed
    body      read whole, within a cap and a time, before anything parses it
    room      a full queue refuses whatever is asked: half of the work of a refusal further in, and a large body stays unread

Each answer has an X-Request-Id, and each request one line in the log and the meters. What is refused here never reaches a route.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inkwash.errors import UsageError
from inkwash.serve.http.errors import ApiError, draining, internal
from inkwash.serve.http.keys import Keys, presented
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.settings import Settings, is_loopback

LOG = logging.getLogger("inkwash.serve")
NOBODY = "local"
KEYS_UNREADABLE = "keys_unreadable"
_SAFE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), (b"content-security-policy", b"default-src 'none'"))


class Answer:
    """`send` with a request id on it; remembers the status and whether an answer has begun. After HEAD the answer ends with its headers."""

    def __init__(self, send: Send, request_id: str, method: str) -> None:
        self.send = send
        self.method = method
        self.id = request_id
        self.status = 0
        self.origin: str | None = None                     # of another site's page that may read this

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode()), *_SAFE, *self._cors()]
            await self.send(message)
            if self.method == "HEAD":                      # a stream would go on, and its sender sees now that nobody waits for it
                await self.send({"type": "http.response.body", "body": b""})
        elif self.method != "HEAD":
            await self.send(message)

    def _cors(self) -> list[tuple[bytes, bytes]]:
        if self.origin is None:
            return []
        return [(b"access-control-allow-origin", self.origin.encode("latin-1")), (b"vary", b"origin"),
                (b"access-control-expose-headers", b"x-request-id, retry-after")]

    async def preflight(self) -> None:
        """Tells a browser what the page of an allowed origin may send; it asks without a key."""
        headers = [(b"access-control-allow-methods", b"GET, POST"),
                   (b"access-control-allow-headers", b"authorization, content-type, idempotency-key")]
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b""})

    async def refuse(self, error: ApiError) -> None:
        """Answers with an error."""
        content = error.content()
        headers = [(name.encode(), value.encode()) for name, value in {**error.headers(), "content-length": str(len(content))}.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": content})


class Guard:
    """ASGI middleware around the whole application.

    `cap_of(path)` is the largest body of a path, in bytes. On the paths of `waiting`, `require_room(owner)` refuses before anything is parsed.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys | None, metrics: Metrics, cap_of: Callable[[str], int],
                 waiting: frozenset[str], require_room: Callable[[str], None]) -> None:
        self.app = app
        self.settings = settings
        self.keys = keys
        self.metrics = metrics
        self.cap_of = cap_of
        self.waiting = waiting
        self.require_room = require_room
        self.active = 0
        self.mine: Counter[str] = Counter()                # requests in progress of each key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})      # there is no WebSocket here

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        answer = Answer(send, f"req_{secrets.token_hex(12)}", scope["method"])
        scope.setdefault("state", {})["request_id"] = answer.id
        refused: str | None = None
        counted: str | None = None
        self.active += 1
        try:
            headers = _headers(scope)
            answer.origin = self._check_names(scope, headers)
            if answer.origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await answer.preflight()
                return
            self._admit(scope, headers)
            counted = scope["state"]["owner"]
            self.mine[counted] += 1
            # with an Idempotency-Key it may have been answered already, and is answered again
            new = scope["method"] == "POST" and scope["path"] in self.waiting and "idempotency-key" not in headers
            if new and _length(scope) > 1024 * self.settings.body_kib:
                self.require_room(scope["state"]["owner"])
            body = await self._body(scope, receive)        # a small one in any case: bytes unread at the end can cost a client its answer
            if new:
                self.require_room(scope["state"]["owner"])
            if answer.method == "HEAD":
                scope = {**scope, "method": "GET"}         # as the routes know it
            await self.app(scope, _replay(body, receive), answer)
        except ApiError as error:
            refused = error.code
            await answer.refuse(error)
        except asyncio.CancelledError:                     # the server ends and waits no longer
            if answer.status:
                raise
            refused = draining().code
            await answer.refuse(draining())
        except Exception:
            LOG.exception("a bug", extra={"fields": {"id": answer.id}})
            if not answer.status:
                await answer.refuse(internal())
        finally:
            self.active -= 1
            if counted is not None:
                self.mine[counted] -= 1
                self.mine += Counter()                     # only those that have any are remembered
            self._record(scope, answer, time.perf_counter() - began, refused)

    def _check_names(self, scope: Scope, headers: dict[str, list[str]]) -> str | None:
        """The origin of another site's page that is allowed, or None. Raises ApiError 403."""
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._host_ok(hosts[0]):
            raise ApiError(403, "host_not_allowed", "this server does not answer to the name in the Host header; its operator can allow names")
        own = f"{scope['scheme']}://{hosts[0]}".lower()
        origins = headers.get("origin", [])
        allowed = [own, *(origin.lower().rstrip("/") for origin in self.settings.allow_origins)]
        if any(origin.lower() not in allowed for origin in origins):
            raise ApiError(403, "origin_not_allowed", "this server does not answer to pages of that origin; its operator can allow origins")
        site = headers.get("sec-fetch-site", ["none"])
        if not origins and any(value not in ("none", "same-origin") for value in site):
            raise ApiError(403, "origin_not_allowed", "a page of another site asked for this; its operator can allow origins")
        return next((origin for origin in origins if origin.lower() != own), None)

    def _admit(self, scope: Scope, headers: dict[str, list[str]]) -> None:
        """Raises ApiError 401, 429, 503. Without keys all callers are one, for whom `connections` is the limit."""
        try:
            owner = scope["state"]["owner"] = self._owner(headers.get("authorization", []))
        except ApiError as error:
            if (error.code, scope["path"]) != (KEYS_UNREADABLE, "/livez"):
                raise
            owner = scope["state"]["owner"] = NOBODY       # a restart would not mend the file
        if scope["path"] in _PROBES:
            return
        if self.mine[owner] >= self.settings.of_key(self.settings.connections_per_key):
            raise ApiError(429, "too_many_connections", f"{self.mine[owner]} requests of yours are in progress; at most "
                                                        f"{self.settings.connections_per_key} may be; wait for one to end", retry_sec=1)
        if self.active > self.settings.connections:
            raise ApiError(503, "server_overloaded", "too many requests are in progress; try again later", retry_sec=1)

    def _host_ok(self, host: str) -> bool:
        """A listed name; on a loopback address its own names; elsewhere also any number, for a page cannot rebind a number."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in {listed.lower() for listed in (*self.settings.allow_hosts, self.settings.host)}:
            return True
        number = name.replace(".", "").isdigit() or ":" in name
        return is_loopback(name) or (number and not is_loopback(self.settings.host))

    def _owner(self, authorization: list[str]) -> str:
        """Whose key was presented. One answer for all that is wrong about it. While the file of keys is broken there is none."""
        if self.keys is None:
            return NOBODY
        key = presented(authorization[0]) if len(authorization) == 1 else None
        try:
            name = self.keys.name_of(key or "")
        except (UsageError, OSError) as error:
            LOG.error("the keys cannot be read", extra={"fields": {"error": str(error)}})
            raise ApiError(503, KEYS_UNREADABLE, "the server cannot read its keys at the moment; try again later", retry_sec=5) from None
        if name is None:
            raise ApiError(401, "invalid_api_key", "give a valid API key in the header Authorization: Bearer KEY")
        return name

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises ApiError 413 before more than the cap is read, 408 when it comes too slowly."""
        cap = self.cap_of(scope["path"])
        error = ApiError(413, "body_too_large", f"the body may have at most {cap} bytes")
        if _length(scope) > cap:
            raise error
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_sec):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "body_incomplete", "the connection was closed before the body was complete")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > cap:
                        raise error
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, "body_too_slow", f"the body must arrive within {self.settings.body_sec:g} s") from None

    def _record(self, scope: Scope, answer: Answer, sec: float, refused: str | None) -> None:
        route = getattr(scope.get("route"), "path", scope["path"] if scope["path"] in self.waiting else "other")
        code = refused or scope["state"].get("code")
        self.metrics.requests.labels(route, answer.method if answer.method in _METHODS else "other", answer.status).inc()
        self.metrics.seconds.labels(route).observe(sec)
        if code:
            self.metrics.refused.labels(code).inc()
        fields = {"id": answer.id, "route": route, "method": answer.method[:16], "status": answer.status, "ms": round(sec * 1000, 1),
                  "owner": scope["state"].get("owner"), "code": code, **scope["state"].get("log", {})}
        LOG.info("request", extra={"fields": {name: value for name, value in fields.items() if value is not None}})


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _length(scope: Scope) -> float:
    """Bytes of the body by its header, 0 without one, infinite where that is no number."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else math.inf


_PROBES = ("/livez", "/readyz", "/metrics")                # a server that is busy lives: whoever watches it must see that
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then only tells of the disconnect."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        found: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
                                 "level": record.levelname.lower(), "message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found)
