"""The process: a listening socket, uvicorn, and what signals mean.

SIGTERM and Ctrl-C drain: readiness drops at once while the socket stays open, accepted work is finished, then the process leaves. A second
signal does not wait. The exit code is 0 after SIGTERM and 130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inkwash.errors import BusyError, UsageError
from inkwash.serve.http.app import create_app
from inkwash.serve.http.guard import JsonLines
from inkwash.serve.http.service import Service
from inkwash.serve.http.settings import Settings

MAX_HEADERS = 32 << 10
HEAD_SEC = 10.0
READ_SEC = 30.0                                            # a client that reads nothing of its answer for so long is left


class Impatient(HttpToolsProtocol):
    """uvicorn's protocol, which would wait for ever for the head of a request or for an answer to be read, or keep a head of any size."""

    _hurried: object = None
    _in_body = False
    _unread = 0                                            # bytes of a head that is not complete
    _left = 0                                              # bytes of an answer that the client was slow to read
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SEC, self._close_unless_asked, self.cycle)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, or of what comes before the next one."""
        last, body = self.cycle, self._in_body             # one that was refused early may go on sending its body
        super().data_received(data)
        self._unread = self._unread + len(data) if self.cycle is last and not body else 0
        if self._unread > MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response(f"The head of a request may have at most {MAX_HEADERS} bytes.")
        elif self._idle and self.cycle is not self._hurried:
            self._hurried = self.cycle
            self.loop.call_later(HEAD_SEC, self._close_unless_asked, self.cycle)

    def on_headers_complete(self) -> None:
        """A head, all of which may have come at once. An error here is answered with 400."""
        if len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers) > MAX_HEADERS:
            raise ValueError("the head is too large")
        super().on_headers_complete()
        self._in_body = True

    def on_message_complete(self) -> None:
        """The end of a request."""
        super().on_message_complete()
        self._in_body = False

    def pause_writing(self) -> None:
        """The client reads more slowly than we answer."""
        super().pause_writing()
        self._left = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(READ_SEC, self._abort_unless_read)

    def resume_writing(self) -> None:
        """The client has read nearly all."""
        super().resume_writing()
        self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._unwatch()
        super().connection_lost(exc)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _abort_unless_read(self) -> None:
        """Drops the connection, and what it was to be told, where nothing was read since the last look."""
        left = self.transport.get_write_buffer_size()
        if left >= self._left:
            self.transport.abort()
        else:
            self._left = left
            self._watch = self.loop.call_later(READ_SEC, self._abort_unless_read)

    @property
    def _idle(self) -> bool:
        """Whether no request is in work."""
        return self.cycle is None or self.cycle.response_complete

    def _close_unless_asked(self, last: object) -> None:
        """Closes where no request has begun since `last`."""
        if self.cycle is last and self._idle:
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, with signals that drain."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_sec: float) -> None:
        super().__init__(config)
        self.service = service
        self.drain_sec = drain_sec
        self.signals: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until a signal, or until a model turns out to be unusable."""
        self._loop = asyncio.get_running_loop()
        self._background(self._watch())
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second one ends."""
        self.signals.append(sig)
        if len(self.signals) > 1:
            self.should_exit = self.force_exit = True
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._background(self._drain()))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def _drain(self) -> None:
        try:
            await self.service.drain(self.drain_sec)
        finally:
            self.should_exit = True

    async def _watch(self) -> None:
        await self.service.failed.wait()
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises BusyError `port_in_use`, UsageError `bad_address`."""
    found: socket.socket | None = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(1024)
        return found
    except (OSError, UnicodeError) as error:               # the latter of a name that no address can have
        if found is not None:
            found.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise BusyError("port_in_use", f"something listens on {host} port {port} already; use --port N, or --port 0 for a free one") from None
        why = error.strerror if isinstance(error, OSError) else "this is no name"
        raise UsageError("bad_address", f"cannot listen on {host} port {port}: {why}; use --host and --port of this machine") from None


def log_to_stderr() -> None:
    """Structured lines for our log and the errors of uvicorn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("inkwash.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _cluster(settings: Settings) -> AbstractContextManager[None]:
    """What the server needs around it: nothing, or a Ray cluster."""
    if not settings.ray:
        return nullcontext()
    from inkwash.serve.ray.cluster import joined

    return joined(settings)


def serve(settings: Settings, announce: Callable[[str], None]) -> int:
    """Serves until a signal and returns the exit code; `announce` is told the address. Raises InkwashError when it cannot start."""
    settings.require_safe()
    log_to_stderr()
    app, service = create_app(settings)
    with _cluster(settings), listen(settings.host, settings.port) as sock:
        address = sock.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        announce(f"http://{host}:{address[1]}")
        config = uvicorn.Config(app, http=Impatient, loop="asyncio", ws="none", lifespan="on", log_config=None, access_log=False, proxy_headers=False,
                                server_header=False, timeout_graceful_shutdown=5)
        server = Server(config, service, settings.drain_sec)
        server.run(sockets=[sock])
    if service.failure is not None:
        raise service.failure
    return 130 if server.signals[:1] == [signal.SIGINT] else 0
