"""One replica: a Worker and its engine in a thread, and calls that put frames in and stream frames out.

    ask(frame, shared) -> frames of an order, until its image or its error
                                                                        when the call is cancelled, so is the order, before its next step
    tell(frame), facts(link)                                            every replica is told; only the one that has the order heeds a frame

An error of the model ends the replica, as it ends a worker process of the plain server: Ray starts another one, and whoever asked asks again.
Ray goes on with calls of a process that was killed; here they are dropped `LEASE_SEC` after its last `facts`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

import inkwash.errors
from inkwash.io.find import find_model
from inkwash.serve.http.channel import Frame
from inkwash.serve.ray.scale import WAIT

LOG = logging.getLogger("ray.serve")
UNBOUNDED = 1_000_000                                      # the doors' `queue` bounds the images, and Ray the calls
LEASE_SEC = 10.0
LAST = ("made", "expired", "failed", "checked")            # what an order ends with


class Args(BaseModel):
    """What a replica serves: the `args` of an application in serve.yaml."""

    model_config = ConfigDict(extra="forbid")

    model: str = "mini"
    device: str = "auto"
    policy: str = "fair"


class Replica:
    """A model on one device. Raises what loading raises, and Ray tries again."""

    def __init__(self, args: Args) -> None:
        from inkwash.serve.http.worker import Worker  # torch, which the web process lives without

        self._inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._streams: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Frame]]] = {}
        self._fetches: WeakValueDictionary[Any, asyncio.Future[bytes]] = WeakValueDictionary()     # by reference, while they are under way
        self._heard: dict[str, float] = {}                 # when each web process last said that it lives
        self._loaded: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._owed, self._rate, self._rows = 0, 0.0, 0
        self._worker = Worker(self._told)
        self._inbox.put(Frame({"do": "load", "folder": str(find_model(args.model)), "device": args.device, "share": 1,
                               "policy": args.policy, "queue": UNBOUNDED}))
        threading.Thread(target=self._work, name="engine", daemon=True).start()
        self._facts = self._loaded.get()
        if self._facts["is"] == "broken":
            raise getattr(inkwash.errors, self._facts["kind"])(self._facts["code"], self._facts["message"])

    async def ask(self, frame: Frame, shared: Sequence[Awaitable[bytes]] = ()) -> AsyncIterator[list[Frame]]:
        """The frames of an order, as they come; several at once where they came faster than they were fetched.

        The body of the order is in the object store where `shared` refers to it.
        """
        number, link = frame.head["id"], frame.head["link"]
        self._heard[link] = time.monotonic()
        events: asyncio.Queue[Frame] = asyncio.Queue()
        self._streams[number] = asyncio.get_running_loop(), events
        try:
            self._inbox.put(Frame(frame.head, await self._fetched(shared[0])) if shared else frame)
            last = False
            while not last and time.monotonic() - self._heard.get(link, -LEASE_SEC) < LEASE_SEC:
                found = [await events.get()]
                while not events.empty():
                    found.append(events.get_nowait())
                last = any(one.head["is"] in LAST for one in found)       # the step that finished it may come behind it
                yield found
        finally:
            del self._streams[number]
            self._inbox.put(Frame({"do": "cancel", "id": number}))

    async def _fetched(self, reference: Awaitable[bytes]) -> bytes:
        """What is in the store, fetched once for all orders that ask for it at a time."""
        fetch = self._fetches.get(reference)
        if fetch is None:
            fetch = self._fetches[reference] = asyncio.ensure_future(reference)
        return await asyncio.shield(fetch)

    async def tell(self, frame: Frame) -> None:
        """A frame about an order, if that is here; what comes of it comes in the order's stream."""
        if frame.head["id"] in self._streams:
            self._inbox.put(frame)

    async def facts(self, link: str) -> dict[str, Any]:
        """What is served here, how fast (rows a second), what is owed and what was done (rows); the asker lives."""
        now = time.monotonic()
        self._heard = {name: heard for name, heard in self._heard.items() if now - heard < LEASE_SEC} | {link: now}
        return {**self._facts, "replica": serve.get_replica_context().replica_id.unique_id, "rate": self._rate, "owed": self._owed,
                "rows": self._rows}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `ByWait` reads: the seconds that this replica needs for what it has accepted."""
        return {WAIT: self._owed / self._rate if self._rate else 0.0}

    def _work(self) -> None:
        try:
            while True:
                wait = not self._worker.pending
                while wait or not self._inbox.empty():
                    self._worker.handle(self._inbox.get())
                    wait = False
                    self._measure()
                if self._worker.pending:
                    self._worker.tick()
                    self._measure()
        except BaseException:
            LOG.exception("the engine failed; this replica ends")
            os._exit(1)

    def _measure(self) -> None:
        engine = self._worker.engine
        if engine is not None:
            self._owed, self._rate, self._rows = engine.backlog, engine.rate.value, engine.rows_done

    def _told(self, frame: Frame) -> None:
        """A frame of the worker, to the stream of its order."""
        if frame.head["is"] in ("ready", "broken"):
            self._loaded.put(frame.head)
        elif frame.head["is"] == "tick":
            for number, done in frame.head["done"]:
                self._stream(number, Frame({"is": "step", "id": number, "done": done}))
        else:
            self._stream(frame.head["id"], frame)

    def _stream(self, number: int, frame: Frame) -> None:
        if (stream := self._streams.get(number)) is not None:
            loop, events = stream
            loop.call_soon_threadsafe(events.put_nowait, frame)


deployment = serve.deployment(name="Replica")(Replica)


def build(args: dict[str, str]) -> Application:
    """The application of one model, for `import_path` in serve.yaml. Raises pydantic's ValidationError for arguments that there are not."""
    return deployment.bind(Args.model_validate(args))
