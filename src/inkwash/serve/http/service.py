"""What the routes share: the workers and their models, who may have work in them, and the way out.

Orders of one request are placed together on the worker that will be finished first, or not at all. Draining refuses what is new, lets what
was accepted come to its end, and then lets the process leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy.exc import SQLAlchemyError

from inkwash.errors import InkwashError, ResourceError, UsageError
from inkwash.io.find import find_model, read_info
from inkwash.io.info import ModelInfo
from inkwash.request import Request
from inkwash.serve.http.admission import Due, require_in_time, require_room, rows_of
from inkwash.serve.http.backend import Backend, Link, Order, Wish
from inkwash.serve.http.errors import ApiError, draining
from inkwash.serve.http.fields import MAX_IMAGES
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.process import Process
from inkwash.serve.http.raster import Start
from inkwash.serve.http.settings import Settings
from inkwash.serve.store import open_store
from inkwash.serve.store.database import first_line

LOG = logging.getLogger("inkwash.serve")
SAVE_SEC = 5.0                                             # how long the last states of a server that leaves may take
Words = TypeVarTuple("Words")
Result = TypeVar("Result")


class Model:
    """A model that is served: what its folder says, and its workers."""

    def __init__(self, folder: Path, info: ModelInfo, workers: list[Backend]) -> None:
        self.folder = folder
        self.info = info
        self.workers = workers

    @property
    def facts(self) -> dict[str, Any]:
        """What a worker has said of the model, its hash for one; empty while none has been ready."""
        return next((worker.facts for worker in self.workers if worker.facts), {})


class Service:
    """All workers of a server, and its store. Raises CheckpointError for a model that is not there, and what `open_store` raises."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.thread = ThreadPoolExecutor(1, "database")    # all that the database does, in order
        self.metrics = metrics
        self.draining = False
        self.failed = asyncio.Event()
        self.started = int(time.time())
        self.models: dict[str, Model] = {}
        for name in settings.models:
            folder = find_model(name)
            info = read_info(folder)
            if info.name in self.models:
                raise UsageError("two_models", f"two models are named {info.name!r}; serve one of them, or rename one in its inkwash.json")
            self.models[info.name] = Model(folder, info, [Backend(f"{info.name}@{where}", link, metrics, self._changed)
                                                          for where, link in _links(settings, folder, info.name)])
        self.store = open_store(settings.db, settings.files)
        self.making: set[tuple[str, str]] = set()          # owner and Idempotency-Key of answers in work
        self.watchers: Counter[str] = Counter()            # open streams of events of jobs, of each key
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def workers(self) -> list[Backend]:
        """The workers of all models."""
        return [worker for model in self.models.values() for worker in model.workers]

    @property
    def ready(self) -> bool:
        """Whether every worker has verified its weights and passed its tests, and nobody drains."""
        return not self.draining and all(worker.state == "ready" for worker in self.workers)

    @property
    def failure(self) -> InkwashError | None:
        """Why a model cannot be loaded."""
        return next((worker.failure for worker in self.workers if worker.failure is not None), None)

    def _changed(self) -> None:
        self.metrics.ready.set(self.ready)
        if self.failure is not None:
            self.failed.set()

    def start(self) -> None:
        """Starts the workers."""
        self._tasks = [asyncio.create_task(worker.run()) for worker in self.workers]

    def save(self) -> None:
        """Asks for the state of every order that nobody waits for, so that the work on it is not lost with its worker."""
        for worker in self.workers:
            for order in worker.live.values():
                if order.patient:
                    worker.save(order)

    async def drain(self, limit_sec: float) -> None:
        """Refuses new work and waits until there is none, at most `limit_sec`; what is left is saved where it can be, and refused as `draining`."""
        self.draining = True
        self._changed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_sec):
                while any(worker.live for worker in self.workers):
                    await asyncio.sleep(0.02)
        self.save()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAVE_SEC):
                while any(order.saving for worker in self.workers for order in worker.live.values()):
                    await asyncio.sleep(0.02)
        for worker in self.workers:
            for order in list(worker.live.values()):
                order.events.put_nowait(draining())
                worker.cancel(order)

    async def stop(self) -> None:
        """Ends the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.thread.shutdown()
        self.store.database.close()

    def model(self, name: str | None) -> Model:
        """A model by name, the first one by default. Raises ApiError 404 `model_not_found`."""
        found = next(iter(self.models.values())) if name is None else self.models.get(name)
        if found is None:
            raise ApiError(404, "model_not_found", f"there is no model {str(name)[:60]!r}; there are: {', '.join(self.models)}", "model")
        return found

    async def stored(self, call: Callable[[*Words], Result], *args: *Words) -> Result:
        """What a call of the database returns, made in its thread. Raises ApiError 503 `store_unavailable`."""
        return await self._away(self.thread, call, *args)

    async def filed(self, call: Callable[[*Words], Result], *args: *Words) -> Result:
        """What a call of the files returns; several go on at once. Raises ApiError 503 `store_unavailable`, `store_full`."""
        return await self._away(None, call, *args)

    async def _away(self, thread: ThreadPoolExecutor | None, call: Callable[[*Words], Result], *args: *Words) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, call, *args)
        except (SQLAlchemyError, ResourceError) as error:
            LOG.error("the store failed", extra={"fields": {"error": first_line(error)}})
            if error.code == "store_full":
                raise ApiError(503, "store_full", "the server has no room left for pictures of jobs; try again later", retry_sec=30) from None
            raise ApiError(503, "store_unavailable", "the server cannot reach what it must remember; try again later", retry_sec=5) from None

    def ready_worker(self, model: Model, patient: bool) -> Backend:
        """The worker that will be finished first with what goes before. Raises ApiError 503 `draining`, `model_loading`."""
        if self.draining:
            raise draining()
        ready = [worker for worker in model.workers if worker.state == "ready"]
        if not ready:
            raise ApiError(503, "model_loading", "the model is being loaded; try again later", retry_sec=5)
        return min(ready, key=lambda worker: (worker.rate.seconds(worker.before(patient)), worker.rate.seconds(worker.backlog)))

    def require_any_room(self, owner: str) -> None:
        """Refuses what no worker of any model can take, whatever is asked, so that nothing of it need be read. Raises ApiError 429, 503."""
        if self.draining:
            raise draining()
        refusal: ApiError | None = None
        for model in self.models.values():
            for worker in model.workers:
                if worker.state == "ready":
                    try:
                        self._require_room(worker, owner, 1)
                        return
                    except ApiError as error:
                        refusal = error
        if refusal is not None:
            raise refusal

    def _require_room(self, worker: Backend, owner: str, asked: int) -> int:
        """The rows that come before `asked` further images. Raises ApiError when there is no room for these."""
        waiting = [order for order in worker.live.values() if not order.patient]
        backlog = worker.before(patient=False)
        mine = sum(order.owner == owner for order in waiting)
        limits = self.settings.queue * worker.engines, self.settings.of_key(self.settings.queue_per_key)
        require_room(len(waiting), mine, asked, *limits, worker.rate.seconds(backlog))
        return backlog

    def place(self, model: Model, requests: Sequence[Request], owner: str, deadline_sec: float, wish: Wish, start: Start | None = None,
              patient: bool = False, states: Sequence[bytes] = ()) -> tuple[Backend, list[Order]]:
        """The orders of the requests, on the worker that will be finished first; `states` are those that were saved of each, or none.

        Raises ApiError when they are too many or too late.
        """
        worker = self.ready_worker(model, patient)
        share = 1.0 if start is None else start.strength
        steps = [max(1, round(share * request.steps)) for request in requests]
        costs = [rows_of(made, r.guidance, r.width, r.height, model.info.sizes.default) for made, r in zip(steps, requests)]
        due = Due()
        if not patient:
            before = self._require_room(worker, owner, len(requests))
            due = require_in_time(worker.rate, worker.margin, before, sum(costs), max(steps), deadline_sec)
        dues = [due._replace(predicted_sec=0.0)] * (len(requests) - 1) + [due]         # what is predicted is the end of the last one
        return worker, [worker.submit(request, owner, cost, one, wish, start, patient, state)
                        for request, cost, one, state in zip(requests, costs, dues, states or [b""] * len(requests), strict=True)]

    @contextlib.asynccontextmanager
    async def working(self, model: Model, requests: Sequence[Request], owner: str, deadline_sec: float, wish: Wish, start: Start | None = None,
                      patient: bool = False, states: Sequence[bytes] = ()) -> AsyncIterator[list[Order]]:
        """`place` for the time of a block; what is not finished when the block is left, however it is left, is cancelled.

        Raises ApiError 504 `deadline_exceeded` when the block takes longer than the deadline.
        """
        worker, orders = self.place(model, requests, owner, deadline_sec, wish, start, patient, states)
        del start, states                                          # the worker has the pixels now
        try:
            async with asyncio.timeout(deadline_sec):
                yield orders
        except TimeoutError:
            raise ApiError(504, "deadline_exceeded", f"not finished within {deadline_sec:g} s; ask for less, or for more time",
                           retry_sec=max(1.0, worker.rate.seconds(worker.backlog))) from None
        finally:
            for order in orders:
                worker.cancel(order)


def _links(settings: Settings, folder: Path, model: str) -> list[tuple[str, Link]]:
    """Where the engines of a model are, each under a name of its own, and the ways to them."""
    if settings.ray:
        from inkwash.serve.ray.link import Replicas
        return [("ray", Replicas(model))]
    launch = {"folder": str(folder), "policy": settings.policy, "queue": settings.queue + settings.jobs_in_work + MAX_IMAGES}
    named = [device if settings.devices.count(device) == 1 else f"{device}#{i}" for i, device in enumerate(settings.devices)]
    return [(name, Process({**launch, "device": device, "share": settings.devices.count(device)}, settings.stall_sec))
            for name, device in zip(named, settings.devices, strict=True)]
