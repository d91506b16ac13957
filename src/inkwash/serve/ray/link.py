"""A link to the replicas of a model: each order is a call that Ray Serve gives to one of them, and is made again when that one dies.

An image is a function of its request alone, so another replica gives the same bytes; whoever reads the events sees only that the steps
stand still for a while. An order that has taken `ATTEMPTS` replicas with it is refused, for it may be what kills them. Large pixels go into the
object store of the cluster, once for all images of a request; calls carry a reference to them.

Once a second all replicas are asked how fast they are and what they did; that is all the web process knows of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from inkwash.serve.http.channel import LARGE, Frame
from inkwash.serve.ray.cluster import app_of, failure_of
from inkwash.serve.ray.replica import LAST

LOG = logging.getLogger("inkwash.serve")
ATTEMPTS = 3
POLL_SEC = 1.0
ANSWER_SEC = 5.0                                           # a replica that takes longer is not counted
LOST = (RayActorError, TaskCancelledError, DeploymentUnavailableError)
FIXED = ("model", "hash", "determinism", "device", "golden")
Take = Callable[[Frame], None]


class Replicas:
    """All replicas of the application of a model."""

    saves = True

    def __init__(self, model: str) -> None:
        self.app = app_of(model)
        self.name = secrets.token_hex(8)                   # of this web process
        self._handle: DeploymentHandle[Any] | None = None  # while connected
        self._take: Take = lambda frame: None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._wires: dict[int, int] = {}                   # an order's number -> that of its present call, which no other web process uses
        self._numbers = count(secrets.randbits(62))
        self._words: set[asyncio.Task[None]] = set()
        self._facts: dict[str, Any] = {}
        self._rows: dict[str, int] = {}                    # done by each replica, as last heard
        self._put: tuple[bytes, asyncio.Task[ray.ObjectRef[bytes]]] | None = None     # the last large pixels, on their way into the store

    def send(self, frame: Frame) -> None:
        """Begins a call, ends one, or tells something to the replica that has it."""
        number, do = frame.head["id"], frame.head["do"]
        if self._handle is None:
            return
        if do in ("submit", "check"):
            call = self._calls[number] = asyncio.get_running_loop().create_task(self._call(self._handle, frame, self._stored(frame.body)))
            call.add_done_callback(lambda _: self._forget(number))
        elif number in self._wires and do == "cancel":
            self._calls[number].cancel()
        elif number in self._wires:
            word = asyncio.get_running_loop().create_task(self._tell(self._handle, Frame({**frame.head, "id": self._wires[number]}, frame.body)))
            self._words.add(word)
            word.add_done_callback(self._words.discard)

    def _stored(self, body: bytes) -> asyncio.Task[ray.ObjectRef[bytes]] | None:
        """A large body in the store, the same for all orders that come in one go; None for a small one."""
        if len(body) < LARGE:
            return None
        if self._put is None or self._put[0] != body:
            loop = asyncio.get_running_loop()
            self._put = body, loop.create_task(asyncio.to_thread(ray.put, body))
            loop.call_soon(setattr, self, "_put", None)
        return self._put[1]

    async def run(self, take: Take) -> None:
        """Asks the replicas how they are, again and again. Returns when none can be started, or when the cluster is lost."""
        self._take = take
        try:
            handle = self._handle = await asyncio.to_thread(serve.get_app_handle, self.app)
            while (found := await self._ask(handle)) or (failure := await asyncio.to_thread(failure_of, self.app)) is None:
                self._heard(found)
                await asyncio.sleep(POLL_SEC)
            take(Frame({"is": "broken", "kind": type(failure).__name__, "code": failure.code, "message": failure.message}))
        except (RayError, RayServeException) as error:
            LOG.error("the cluster was lost", extra={"fields": {"app": self.app, "error": type(error).__name__}})

    async def close(self) -> None:
        """Ends all calls; the replicas stay, for they are the cluster's."""
        self._handle = None
        left = [*self._calls.values(), *self._words]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _ask(self, handle: DeploymentHandle[Any]) -> list[dict[str, Any]]:
        """The facts of all replicas that answer."""
        try:
            found = await handle.broadcast("facts", self.name).results_async(timeout_s=ANSWER_SEC, return_exceptions=True)
        except (DeploymentUnavailableError, TimeoutError):
            return []
        return [one for one in found if isinstance(one, dict)]

    def _heard(self, alive: list[dict[str, Any]]) -> None:
        if alive:
            facts = {name: alive[0][name] for name in FIXED}
            if any(one["golden"] != facts["golden"] for one in alive):
                facts["determinism"] = "tolerance"         # machines that round differently
            if facts != self._facts:
                self._facts = facts
                self._take(Frame({"is": "ready", **facts, "rate": 0.0}))
        rows = {one["replica"]: one["rows"] for one in alive}
        new = sum(done - self._rows.get(name, done) for name, done in rows.items())
        self._rows = rows
        self._take(Frame({"is": "engines", "engines": len(alive), "rate": sum(one["rate"] for one in alive), "rows": new}))

    async def _tell(self, handle: DeploymentHandle[Any], frame: Frame) -> None:
        with contextlib.suppress(*LOST):                   # then nobody has it
            await handle.broadcast("tell", frame).results_async(return_exceptions=True)

    def _forget(self, number: int) -> None:
        del self._calls[number]
        self._wires.pop(number, None)

    async def _call(self, handle: DeploymentHandle[Any], frame: Frame, stored: asyncio.Task[ray.ObjectRef[bytes]] | None = None) -> None:
        """One order, to its end, on as many replicas as it takes."""
        number, began, seen = frame.head["id"], time.monotonic(), -1
        shared: list[ray.ObjectRef[bytes]] = []            # in a list, so that the replica fetches it and not the call
        if stored is not None:
            try:
                shared, frame = [await asyncio.shield(stored)], Frame(frame.head)
            except RayError as error:
                LOG.error("the object store is full", extra={"fields": {"app": self.app, "error": type(error).__name__}})
                self._take(Frame({"is": "failed", "id": number, "kind": "ResourceError", "code": "server_overloaded", "retry_sec": 5.0,
                                  "message": "the cluster has no room for the picture; try again later"}))
                return
        for _ in range(ATTEMPTS):
            wire = self._wires[number] = next(self._numbers)
            head = {**frame.head, "id": wire, "link": self.name}
            if head.get("deadline_sec") is not None:
                head["deadline_sec"] = max(0.001, began + head["deadline_sec"] - time.monotonic())
            answer = handle.options(method_name="ask", stream=True).remote(Frame(head, frame.body), shared)
            ended = False
            try:
                async for frames in cast(DeploymentResponseGenerator[list[Frame]], answer):
                    for one in frames:
                        step = {"accepted": 0, "preview": one.head.get("step")}.get(one.head["is"])
                        if step is None or step > seen:               # what was told already is not told again
                            self._take(Frame({**one.head, "id": number}, one.body))
                            seen = seen if step is None else step
                        ended = ended or one.head["is"] in LAST       # and read on: Ray counts a stream as under way until its end is read
                if ended:
                    return
            except asyncio.CancelledError:
                await asyncio.to_thread(answer.cancel)
                raise
            except LOST as error:
                if ended:
                    return
                LOG.error("a replica was lost", extra={"fields": {"app": self.app, "error": type(error).__name__}})
            except Exception:
                LOG.exception("a bug")
                self._take(Frame({"is": "failed", "id": number, "kind": "InkwashError", "code": "internal_error", "message": ""}))
                return
        self._take(Frame({"is": "failed", "id": number, "kind": "ResourceError", "code": "engine_restarted", "retry_sec": 5.0,
                          "message": f"{ATTEMPTS} replicas were lost while they made this; ask again"}))
