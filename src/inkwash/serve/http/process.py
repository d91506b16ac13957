"""A link to a worker process of this machine, over a socket pair; the process ends with its socket.

A process can hang and live, with its GPU for one. So one that is ready and says nothing is asked whether it hears, which it does between two
ticks; where no word comes within `stall_sec`, that is the end of this life, and the process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

from inkwash.serve.http.channel import LARGE, Decoder, Frame

LOG = logging.getLogger("inkwash.serve")
CHUNK = 1 << 18


class Process:
    """A worker process: a model on a device. `launch` is what it is told to load."""

    saves = True

    def __init__(self, launch: dict[str, Any], stall_sec: float) -> None:
        self.launch = launch
        self.stall_sec = stall_sec
        self._sent = b""                                   # the last large body, which is not sent twice in a row
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None

    def send(self, frame: Frame) -> None:
        """Sends a frame to the process, if it lives."""
        if self._writer is not None and not self._writer.is_closing():
            again = len(frame.body) >= LARGE and frame.body == self._sent
            self._writer.write(Frame({**frame.head, "again": True}).pack() if again else frame.pack())
            if not again:                                  # the images of one request come in one go
                self._sent = frame.body if len(frame.body) >= LARGE else b""
                asyncio.get_running_loop().call_soon(self._forget)

    def _forget(self) -> None:
        self._sent = b""

    async def run(self, take: Callable[[Frame], None]) -> None:
        """One life of a worker, from start to end of file."""
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "inkwash.serve.http.worker", str(theirs.fileno()),
                                                                     pass_fds=(theirs.fileno(),), start_new_session=True,
                                                                     stdin=asyncio.subprocess.DEVNULL)
            self.send(Frame({"do": "load", **self.launch}))
            decoder, ready = Decoder(), False
            with contextlib.suppress(ConnectionError):     # a killed worker resets the connection: the same as its end
                while data := await (self._heard(reader) if ready else reader.read(CHUNK)):
                    for frame in decoder.feed(data):
                        ready = ready or frame.head["is"] == "ready"
                        if frame.head["is"] != "here":
                            take(frame)
        finally:
            self._writer.close()

    async def _heard(self, reader: asyncio.StreamReader) -> bytes:
        """What the process says next; nothing, as at its end, where it says nothing for too long."""
        try:
            try:
                async with asyncio.timeout(self.stall_sec / 2):
                    return await reader.read(CHUNK)
            except TimeoutError:
                self.send(Frame({"do": "ask"}))            # it may have nothing to do
                async with asyncio.timeout(self.stall_sec / 2):
                    return await reader.read(CHUNK)
        except TimeoutError:
            LOG.error("a worker says nothing", extra={"fields": {"device": self.launch["device"], "sec": self.stall_sec}})
            return b""

    async def close(self) -> None:
        """Waits for the process to end after its socket was closed; one that does not is killed."""
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), 5.0)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
