"""Works on jobs, in what other requests leave of the machine: claims them from the store, places their images, keeps what was made.

Images of jobs have the lowest priority, so a request that somebody waits for goes first; but every few ticks of the engine age decides, so they
never starve. At most `jobs_in_work` of them are with a worker at a time; the others wait in the store, where no crash loses them. A job whose
worker dies goes back into the line and is made again, with the same bytes; the store sees to it that it ends once. Every `jobs_save_sec`, and when
the server leaves, the state of each image is kept beside its job, and whoever makes the job next goes on from there. A job that has lost its worker
twice is made while no other one is: if it is what kills the worker, it takes no others with it.

Where the files cannot be written, what is made waits here until they can (pause.py), and nothing new is claimed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Row

from inkwash.request import Request
from inkwash.serve.http.backend import Accepted, Made, Order, Preview, Saved, Step, Wish
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.pause import Pause
from inkwash.serve.http.raster import Start
from inkwash.serve.http.service import Model, Service
from inkwash.serve.store.database import LEASE_SEC
from inkwash.serve.store.jobs import Image, states_of

LOG = logging.getLogger("inkwash.serve")
BACK = ("draining", "model_loading", "server_overloaded", "queue_full", "store_unavailable", "store_full")   # not the job's fault: it waits again
POLL_SEC = 1.0                                             # for jobs that another server has put into the line
SUSPECT = 3                                                # from this attempt on a job is made alone
SWEEP_SEC = 600.0
SETTLE_SEC = 5.0
TRIAL, TRIAL_SEC = bytes(1 << 18), 5.0                     # what is written to see whether anything can be, and how long it may take
Told = tuple[str, dict[str, Any]]


class Live:
    """A job in work here: how far it is, and who watches it."""

    def __init__(self, row: Row[Any]) -> None:
        self.row = row
        self.requests = [Request(**one) for one in row.work["requests"]]
        self.steps = [0] * len(self.requests)              # made, of each image
        self.saved = [0] * len(self.requests)              # and kept
        self.states = states_of(row.id, len(self.requests))
        self.task: asyncio.Task[None] | None = None
        self.made = False                                  # all images are there and are being kept: too late to stop
        self._watchers: set[asyncio.Queue[Told | None]] = set()

    @property
    def done(self) -> int:
        """Steps that are made, of all images."""
        return sum(self.steps)

    def tell(self, event: Told | None) -> None:
        """Tells all who watch; None is the end."""
        for watcher in self._watchers:
            watcher.put_nowait(event)

    async def watch(self) -> AsyncIterator[Told]:
        """(name, data) of steps and previews, until the work on the job ends."""
        mine: asyncio.Queue[Told | None] = asyncio.Queue()
        self._watchers.add(mine)
        try:
            while (event := await mine.get()) is not None:
                yield event
        finally:
            self._watchers.discard(mine)


class Runner:
    """The work on the jobs of a server. `live` are those in work here, by id."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.jobs = service.store.jobs
        self.live: dict[str, Live] = {}
        self.wake = asyncio.Event()
        self.pause = Pause(service.metrics)

    async def run(self) -> None:
        """Works until cancelled."""
        tidying = asyncio.create_task(self._tidy())
        try:
            await self._run()
        finally:
            tidying.cancel()

    async def _run(self) -> None:
        held = -LEASE_SEC
        saved = time.monotonic()
        while True:
            now = time.monotonic()
            self.wake.clear()
            try:
                if now - held >= LEASE_SEC / 5:
                    await self._hold()
                    held = now
                if now - saved >= self.service.settings.jobs_save_sec:
                    self.service.save()
                    saved = now
                if self.pause.due:
                    await self._try()
                for model in self.service.models.values():
                    while self._room(model) > 0 and (row := await self.service.stored(self.jobs.claim, model.info.name)) is not None:
                        self._begin(row, model)
            except ApiError:                               # the store; it has been logged
                await asyncio.sleep(POLL_SEC)
            except Exception:
                LOG.exception("a bug")
                await asyncio.sleep(POLL_SEC)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), POLL_SEC)

    async def stop(self) -> None:
        """Waits until the jobs that were told of the end have gone back into the line; any other is left to its lease."""
        self.pause.open.set()                              # one more time for what waits to be written
        tasks = [live.task for live in self.live.values() if live.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_SEC)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel(self, job: str) -> None:
        """Stops the work on a job before its next step."""
        live = self.live.get(job)
        if live is not None and live.task is not None and not live.made:
            live.task.cancel()

    def _room(self, model: Model) -> int:
        """How many more images of jobs its workers take."""
        if self.service.draining or not self.pause.open.is_set():
            return 0
        ready = sum(worker.engines for worker in model.workers if worker.state == "ready")
        there = self._of(model)
        if any(live.row.attempts >= SUSPECT for live in there):
            return 0
        return self.service.settings.jobs_in_work * ready - sum(len(live.requests) for live in there)

    def _of(self, model: Model) -> list[Live]:
        """Jobs of a model that are in work here."""
        return [live for live in self.live.values() if live.row.model == model.info.name]

    def _begin(self, row: Row[Any], model: Model) -> None:
        live = self.live[row.id] = Live(row)
        live.task = asyncio.get_running_loop().create_task(self._work(live, model))
        live.task.add_done_callback(lambda _: self._over(live))

    def _over(self, live: Live) -> None:
        if self.live.get(live.row.id) is live:             # it may be in work again already
            del self.live[live.row.id]
        live.tell(None)
        self.wake.set()

    async def _work(self, live: Live, model: Model) -> None:
        job, end = live.row.id, "bug"
        try:
            made = await self._make(live, model)
            live.made = True
            end = "done" if await self._keep(live, made) else "lost"
        except ApiError as error:
            end = error.code
            if end in ("store_unavailable", "store_full"):
                self.pause.failed(end)
            await self._give_up(live, error)
        except asyncio.CancelledError:
            end = "cancelled"
        except Exception:                                  # its lease passes, and after some attempts it fails
            LOG.exception("a bug", extra={"fields": {"job": job}})
        self.service.metrics.jobs.labels(end).inc()
        LOG.info("job", extra={"fields": {"job": job, "owner": live.row.owner, "end": end, "attempt": live.row.attempts}})

    async def _make(self, live: Live, model: Model) -> list[Made]:
        """The images. Raises ApiError."""
        before = [one.task for one in self._of(model) if one is not live and one.task is not None]
        if live.row.attempts >= SUSPECT and before:        # nothing is begun beside it; what was begun before comes to its end first
            await asyncio.wait(before)
        row, start = live.row, await self._start(live.row)
        left = math.inf if row.deadline is None else row.deadline - await self.service.stored(self.jobs.database.clock)
        if left <= 0:
            raise ApiError(504, "deadline_exceeded", "the deadline had passed before the job's turn came; ask for less, or for more time")
        states = [await self._state(path) for path in live.states] if row.done else []
        async with self.service.working(model, live.requests, row.owner, left, Wish(*row.work["wish"]), start, patient=True, states=states) as orders:
            return list(await asyncio.gather(*(self._follow(live, i, order) for i, order in enumerate(orders))))

    async def _follow(self, live: Live, i: int, order: Order) -> Made:
        async for event in order.each():
            if isinstance(event, Made):
                return event
            if isinstance(event, Accepted):
                live.steps[i] = live.saved[i] = event.step
            if isinstance(event, Saved):
                await self._save(live, i, event)
                order.saving = False
            if isinstance(event, Step):
                live.steps[i] = event.done
                live.tell(("job.step", {"image_index": i, "done": live.done, "total": live.row.total}))
            if isinstance(event, Preview):
                live.tell(("job.partial_image", {"image_index": i, "step": event.step, "b64_json": base64.b64encode(event.data).decode()}))
        raise AssertionError("an order ends with its image or an error")

    async def _state(self, path: str) -> bytes:
        """What was kept of an image, empty where nothing was."""
        found = await self.service.filed(self.service.store.files.get, path)
        return found or b""

    async def _save(self, live: Live, i: int, state: Saved) -> None:
        """Keeps the state of an image; where the store cannot be reached, the one before it stays."""
        with contextlib.suppress(ApiError):                # it has been logged
            await self.service.filed(self.service.store.files.put, live.states[i], state.data)
            live.saved[i] = state.step

    async def _start(self, row: Row[Any]) -> Start | None:
        """What the images start from. Raises ApiError 410 where its file is gone."""
        head = row.work["start"]
        if head is None:
            return None
        data = await self.service.filed(self.service.store.files.get, row.work["files"][0])
        if data is None:
            raise ApiError(410, "picture_gone", "the picture that this job starts from is gone; submit it again")
        return Start.of(head, data)

    async def _keep(self, live: Live, made: list[Made]) -> bool:
        """Writes the pictures, then the end of the job; False where it had ended otherwise meanwhile, and the pictures go.

        Where they cannot be written, the job waits here with its pictures, and can be cancelled.
        """
        row = live.row
        form = Wish(*row.work["wish"]).format
        found = [Image(f"jobs/{row.id}/{i}.{form}", hashlib.sha256(one.data).hexdigest(), one.facts) for i, one in enumerate(made)]
        try:
            for image, one in zip(found, made, strict=True):
                await self._put(live, image.path, one.data)
        except asyncio.CancelledError:
            await self._withdraw(row, found)
            raise
        warnings = list(dict.fromkeys(text for one in made for text in one.facts["warnings"]))
        if await self.service.stored(self.jobs.finish, row.id, found, [*row.warnings, *warnings]):
            if any(live.saved):
                await self._drop(live.states)
            return True
        await self._withdraw(row, found)
        return False

    async def _withdraw(self, row: Row[Any], found: list[Image]) -> None:
        """Deletes the pictures of a job that will have none. Where another server has the job, they are its own: of the same names and bytes."""
        with contextlib.suppress(ApiError):                # it has been logged
            now = await self.service.stored(self.jobs.get, row.id, row.owner)
            if now is None or now.status in ("cancelled", "failed"):
                await self._drop([image.path for image in found])

    async def _drop(self, paths: list[str]) -> bool:
        """Deletes what nobody needs any more; whether that could be done: it is not what the job came to."""
        try:
            await self.service.filed(self.service.store.files.delete, paths)
        except ApiError:                                   # it has been logged
            return False
        return True

    async def _put(self, live: Live, path: str, data: bytes) -> None:
        """Writes a picture, as soon as that can be done. Raises ApiError when the server leaves and it still cannot."""
        while True:
            try:
                await self.service.filed(self.service.store.files.put, path, data)
            except ApiError as error:
                self.pause.failed(error.code)
                if self.service.draining:
                    raise
                live.made = False
                await self.pause.open.wait()
                live.made = True
            else:
                self.pause.worked()
                return

    async def _try(self) -> None:
        """After a pause, whether files can be written again: those who wait are let in, or the next pause begins."""
        try:
            async with asyncio.timeout(TRIAL_SEC):
                await self.service.filed(self.service.store.files.put, "jobs/trial", TRIAL)
                await self.service.filed(self.service.store.files.delete, ["jobs/trial"])
        except (ApiError, TimeoutError) as error:
            self.pause.failed(getattr(error, "code", "store_unavailable"))
        else:
            if self.live:
                self.pause.open.set()                      # they will tell whether that is enough
            else:
                self.pause.worked()

    async def _give_up(self, live: Live, error: ApiError) -> None:
        """Puts the job back where the error is ours, and ends it where it is its own."""
        job = live.row.id
        try:
            if error.code in BACK:
                await self.service.stored(self.jobs.release, job, False, sum(live.saved))
            elif error.code == "engine_restarted":
                await self.service.stored(self.jobs.release, job, True, sum(live.saved))
            elif error.code != "cancelled":
                await self.service.stored(self.jobs.fail, job, {"status": error.status, "code": error.code, "message": error.message})
        except ApiError:
            LOG.error("a job waits for its lease to pass", extra={"fields": {"job": job}})

    async def _hold(self) -> None:
        """Renews what this server holds, stops what it no longer does, and puts back what dead servers held."""
        mine = await self.service.stored(self.jobs.renew, {job: live.done for job, live in self.live.items()})
        for job in set(self.live) - mine:
            self.cancel(job)
        await self.service.stored(self.service.store.answers.renew, list(self.service.making))
        await self.service.stored(self.jobs.recover)
        self.service.metrics.queued.set(await self.service.stored(self.jobs.count, None, ("queued",)))

    async def _tidy(self) -> None:
        """Forgets what ended long ago, now and then; beside the work, for with many files in a bucket it takes longer than a lease."""
        while True:
            try:
                await self._sweep()
            except ApiError:                               # the store; it has been logged
                pass
            except Exception:
                LOG.exception("a bug")
            await asyncio.sleep(SWEEP_SEC)

    async def _sweep(self) -> None:
        """Files go first: were a job forgotten before, nobody would know of those that stay when a server dies or its bucket is away."""
        keep_sec = 3600 * self.service.settings.keep_hours
        await self.service.stored(self.service.store.answers.forget, keep_sec, 2**20 * self.service.settings.answers_mib_per_key)
        while old := await self.service.stored(self.jobs.ended, keep_sec):
            gone = [job for job, paths in old.items() if await self._drop(paths)]
            await self.service.stored(self.jobs.forget, gone)
            if len(gone) < len(old):                       # the others are tried again the next time
                return
