"""The work on jobs beside everything that can go wrong around it; a stand-in for the worker process makes the images."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import errno
import hashlib
import io
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

pytest.importorskip("sqlalchemy")

from obstore.exceptions import BaseError
from PIL.Image import new as new_picture
from sqlalchemy import update

from inkwash.errors import ResourceError
from inkwash.request import Request
from inkwash.serve.http import jobs_run, pause
from inkwash.serve.http.admission import Due
from inkwash.serve.http.app import create_app
from inkwash.serve.http.backend import Accepted, Made, Order, Saved, Step
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.jobs_events import watched
from inkwash.serve.http.jobs_run import Live, Runner
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.raster import Start
from inkwash.serve.http.service import Service
from inkwash.serve.http.settings import Settings
from inkwash.serve.store import files
from inkwash.serve.store.database import LEASE_SEC
from inkwash.serve.store.jobs import Image, New, new_id
from inkwash.serve.store.tables import jobs


class Bench:
    """A service whose images are made by `make`, and the work on its jobs."""

    def __init__(self, model: Path, folder: Path, keep_hours: float = 24.0) -> None:
        self.service = Service(Settings(models=(str(model),), db=f"sqlite:///{folder}/jobs.db", keep_hours=keep_hours), Metrics())
        self.service.working = self.working  # type: ignore[method-assign, assignment]
        self.service.workers[0].state = "ready"
        self.runner = Runner(self.service)
        self.make: Callable[[Order], object] = self.made
        self.before: list[object] = []
        self.states: list[bytes] = []
        self.files = folder / "files"

    @asynccontextmanager
    async def working(self, model: object, requests: list[Request], owner: str, *rest: object, patient: bool,
                      states: list[bytes]) -> AsyncIterator[list[Order]]:
        assert patient
        self.states = states
        orders = [Order(i, request, owner, 1.0, Due(), True) for i, request in enumerate(requests)]
        for order in orders:
            for event in (*self.before, Step(1, 2), self.make(order)):
                order.events.put_nowait(event)  # type: ignore[arg-type]
        yield orders

    def made(self, order: Order) -> Made:
        return Made(f"picture {order.request.seed}".encode(), {"seed": order.request.seed, "warnings": ["a note"]})

    def add(self, number: int = 1, prompt: str = "x") -> str:
        work = {"requests": [dataclasses.asdict(Request(prompt, seed=i)) for i in range(number)], "wish": ["png", 100, []], "common": {},
                "start": None, "files": []}
        new = New(new_id(), "alice", "tiny", work, 1.0, 2 * number, [], time.time(), None)
        self.service.store.jobs.add(new)
        return new.id

    def failing(self, code: str) -> bool:
        return self.service.metrics.registry.get_sample_value("inkwash_files_failing", {"code": code}) == 1

    def status(self, job: str) -> str:
        row = self.service.store.jobs.get(job, "alice")
        return "forgotten" if row is None else row.status

    def run(self, until: Callable[[], bool]) -> None:
        """Works until it is so."""

        async def work() -> None:
            self.runner = Runner(self.service)
            running = asyncio.create_task(self.runner.run())
            async with asyncio.timeout(60):
                while not until():
                    await asyncio.sleep(0.02)
            running.cancel()
            await self.runner.stop()

        asyncio.run(work())


@pytest.fixture
def bench(tiny_model: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_model, tmp_path)


def test_a_job_is_made(bench: Bench) -> None:
    job = bench.add(2)
    bench.run(lambda: bench.status(job) == "done")
    assert [(bench.files / f"jobs/{job}/{i}.png").read_bytes() for i in range(2)] == [b"picture 0", b"picture 1"]
    row = bench.service.store.jobs.get(job, "alice")
    assert row is not None
    assert (row.warnings, row.done) == (["a note"], 4)
    assert bench.runner.live == {}


def test_its_error_ends_a_job_and_ours_does_not(bench: Bench) -> None:
    bad, late = bench.add(), bench.add()
    errors = {bad: ApiError(400, "unknown_name", "no sampler is so named"), late: ApiError(503, "server_overloaded", "later", retry_sec=1)}
    turns = iter([bad, late])

    def make(order: Order) -> object:
        job = next(turns, None)
        return errors[job] if job is not None else bench.made(order)

    bench.make = make
    bench.run(lambda: bench.status(bad) == "failed" and bench.status(late) == "done")
    row = bench.service.store.jobs.get(late, "alice")
    assert row is not None
    assert row.attempts == 1, "it is blamed for nothing"


def test_a_picture_that_cannot_be_written_waits_until_it_can(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "FIRST_SEC", 0.02)
    monkeypatch.setattr(jobs_run, "POLL_SEC", 0.01)
    job, made = bench.add(), 0

    def make(order: Order) -> Made:
        nonlocal made
        made += 1
        return bench.made(order)

    def until() -> bool:
        if bench.failing("store_unavailable") and (bench.files / "jobs").is_file():
            (bench.files / "jobs").unlink()
        return bench.status(job) == "done"

    bench.make = make
    (bench.files / "jobs").write_text("in the way")
    bench.run(until)
    assert (bench.files / f"jobs/{job}/0.png").read_bytes() == b"picture 0"
    assert made == 1


def test_a_full_disk_is_left_alone_longer_and_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "FIRST_SEC", 0.05)
    monkeypatch.setattr(pause, "MOST_SEC", 0.2)
    monkeypatch.setattr(jobs_run, "POLL_SEC", 0.01)
    bench.service.settings = bench.service.settings.model_copy(update={"jobs_in_work": 2})
    put, tries, made, seen = files.obstore.put, [], [], set[str]()

    def no_room(store: object, path: str, data: bytes) -> object:
        if len(tries) >= 6:
            return put(store, path, data)  # type: ignore[arg-type]
        if path.endswith("trial"):
            tries.append(time.monotonic())
        raise OSError(errno.ENOSPC, "No space left on device")

    def make(order: Order) -> Made:
        made.append(order)
        return bench.made(order)

    def until() -> bool:
        if bench.failing("store_full"):
            seen.update(bench.status(job) for job in jobs)
            assert len(made) <= 2, "no more is made than may be in work"
            assert bench.runner.pause.code == "store_full"
        return all(bench.status(job) == "done" for job in jobs)

    monkeypatch.setattr(files.obstore, "put", no_room)
    bench.make = make
    jobs = [bench.add() for _ in range(4)]
    bench.run(until)
    assert len(made) == 4, "each is made once"
    assert seen == {"queued", "running"}
    assert not bench.failing("store_full")
    assert bench.runner.pause.code == ""
    pauses = [after - before for before, after in pairwise(tries)]
    assert all(found >= least for found, least in zip(pauses, (0.1, 0.2, 0.2, 0.2, 0.2), strict=True)), pauses


def test_a_job_that_waits_for_room_can_be_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(store: object, path: str, data: bytes) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(files.obstore, "put", no_room)
    job = bench.add()

    def until() -> bool:
        if bench.failing("store_full") and bench.status(job) == "running":
            assert bench.service.store.jobs.cancel(job, "alice")
            bench.runner.cancel(job)
        return bench.status(job) == "cancelled" and not bench.runner.live

    bench.run(until)


def test_a_pause_doubles_up_to_a_minute_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pause.time, "monotonic", lambda: now)
    found, told = pause.Pause(Metrics()), []
    for _ in range(9):
        found.failed("store_full")
        found.failed("store_full")                         # of another job, in the same pause
        told.append(found.until - now)
        assert not found.due
        now = found.until
        assert found.due
    assert told == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    found.worked()
    assert found.open.is_set()
    found.failed("store_unavailable")
    assert found.until - now == 1.0


def test_the_text_of_a_store_says_that_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, code in (("Generic LocalFileSystem error: No space left on device (os error 28)", "store_full"),
                       ("Generic S3 error: timed out", "store_unavailable")):
        def failing(store: object, path: str, data: bytes, text: str = text) -> None:
            raise BaseError(text)

        monkeypatch.setattr(files.obstore, "put", failing)
        with pytest.raises(ResourceError) as caught:
            files.Files(str(tmp_path)).put("a", b"x")
        assert caught.value.code == code


def test_a_key_may_watch_so_many_jobs_at_once(bench: Bench) -> None:
    bench.service.settings = bench.service.settings.model_copy(update={"watchers_per_key": 2})
    job = bench.add()

    def ask(owner: str) -> AsyncGenerator[tuple[str, dict[str, object]]]:
        state = SimpleNamespace(service=bench.service, runner=bench.runner)
        return watched(SimpleNamespace(app=SimpleNamespace(state=state), scope={"state": {"owner": owner}}), job)  # type: ignore[arg-type, return-value]

    async def watch() -> None:
        open_ones = [ask("alice"), ask("alice")]
        assert [(await anext(one))[0] for one in open_ones] == ["job.queued"] * 2
        with pytest.raises(ApiError) as caught:
            await anext(ask("alice"))
        assert (caught.value.status, caught.value.code, caught.value.headers()["retry-after"]) == (429, "too_many_watchers", "5")
        with pytest.raises(ApiError, match="no such job"):
            await anext(ask("bob"))
        await open_ones[0].aclose()
        assert (await anext(ask("alice")))[0] == "job.queued"
        await open_ones[1].aclose()

    asyncio.run(watch())
    assert bench.service.watchers.total() == 0


def test_a_job_cancelled_at_the_last_moment_leaves_no_picture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job = bench.add()
    put = bench.service.store.files.put

    def cancelled_meanwhile(path: str, data: bytes) -> None:
        put(path, data)
        assert bench.service.store.jobs.cancel(job, "alice")

    monkeypatch.setattr(bench.service.store.files, "put", cancelled_meanwhile)
    bench.run(lambda: bench.service.metrics.registry.get_sample_value("inkwash_jobs_total", {"end": "lost"}) == 1)
    assert bench.status(job) == "cancelled"
    assert not (bench.files / f"jobs/{job}/0.png").exists()


@pytest.mark.parametrize("cut", [False, True])
def test_a_server_that_was_taken_for_dead_leaves_the_pictures_of_the_other(bench: Bench, monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    job, store = bench.add(), bench.service.store
    other = copy.copy(store.jobs)
    other.database = copy.copy(store.database)
    other.database.holder = "another"
    put, name, loops = store.files.put, f"jobs/{job}/0.png", list[asyncio.AbstractEventLoop]()

    def slow(path: str, data: bytes) -> None:
        put(path, data)
        with store.database.engine.begin() as connection:
            connection.execute(update(jobs).values(lease=0.0))
        other.recover()
        assert other.claim("tiny") is not None
        assert other.finish(job, [Image(name, hashlib.sha256(data).hexdigest(), {})], [])
        if cut:
            loops[0].call_soon_threadsafe(bench.runner.live[job].task.cancel)  # type: ignore[union-attr]

    def until() -> bool:
        loops.append(asyncio.get_running_loop())
        value = bench.service.metrics.registry.get_sample_value
        return any(value("inkwash_jobs_total", {"end": end}) == 1 for end in ("lost", "cancelled"))

    monkeypatch.setattr(store.files, "put", slow)
    bench.run(until)
    assert bench.status(job) == "done"
    assert (bench.files / name).read_bytes() == b"picture 0"


def test_a_job_that_kills_its_worker_takes_no_other_job_with_it(bench: Bench) -> None:
    bench.service.settings = bench.service.settings.model_copy(update={"jobs_in_work": 4})
    lost = ApiError(503, "engine_restarted", "lost", retry_sec=5)
    there: set[Order] = set()

    @asynccontextmanager
    async def working(model: object, requests: list[Request], owner: str, *rest: object, **more: object) -> AsyncIterator[list[Order]]:
        [order] = orders = [Order(0, requests[0], owner, 1.0, Due(), True)]
        there.add(order)
        loop = asyncio.get_running_loop()
        if order.request.prompt == "kills":
            loop.call_later(0.1, lambda: [one.events.put_nowait(lost) for one in there])
        else:
            loop.call_later(0.5, order.events.put_nowait, bench.made(order))
        try:
            yield orders
        finally:
            there.discard(order)

    bench.service.working = working  # type: ignore[method-assign, assignment]
    innocent = [bench.add() for _ in range(2)]
    bad = bench.add(prompt="kills")
    innocent.append(bench.add())
    bench.run(lambda: all(bench.status(job) in ("failed", "done") for job in (bad, *innocent)))
    row = bench.service.store.jobs.get(bad, "alice")
    assert row is not None
    assert row.error["code"] == "too_many_attempts"
    assert [bench.status(job) for job in innocent] == ["done"] * 3


def test_a_job_comes_again_after_a_bug(bench: Bench) -> None:
    job = bench.add()
    bench.make = lambda order: Made(b"x", {})              # facts without warnings: a mistake of ours
    bench.run(lambda: bench.service.metrics.registry.get_sample_value("inkwash_jobs_total", {"end": "bug"}) == 1)
    assert bench.status(job) == "running", "until its lease passes"
    with bench.service.store.database.engine.begin() as connection:
        connection.execute(update(jobs).values(lease=jobs.c.lease - LEASE_SEC))
    bench.make = bench.made
    bench.run(lambda: bench.status(job) == "done")


def test_a_job_goes_on_from_what_was_saved_of_it(bench: Bench) -> None:
    job, turns = bench.add(2), iter((True, True))
    bench.before = [Accepted(0), Saved(1, b"a state")]

    def make(order: Order) -> object:
        return ApiError(503, "draining", "leaving", retry_sec=1) if next(turns, False) else bench.made(order)

    def files() -> set[str]:
        return {path.name for path in (bench.files / "jobs" / job).iterdir()}

    bench.make = make
    bench.run(lambda: bench.service.metrics.registry.get_sample_value("inkwash_jobs_total", {"end": "draining"}) == 1 and not bench.runner.live)
    row = bench.service.store.jobs.get(job, "alice")
    assert row is not None
    if row.status == "queued":                             # unless it was claimed again at once
        assert row.done > 0
        assert "0.state" in files()
    bench.run(lambda: bench.status(job) == "done")
    assert bench.states[0] == b"a state"
    assert files() == {"0.png", "1.png"}, "states go when the job is done"


def test_a_state_that_cannot_be_written_does_not_end_a_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bench.service.store.files.put

    def only_pictures(path: str, data: bytes) -> None:
        if path.endswith(".state"):
            raise ResourceError("store_unavailable", "no room")
        put(path, data)

    monkeypatch.setattr(bench.service.store.files, "put", only_pictures)
    bench.before = [Saved(1, b"a state")]
    job = bench.add()
    bench.run(lambda: bench.status(job) == "done")


def test_a_job_is_done_though_what_was_saved_of_it_cannot_be_deleted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(paths: list[str]) -> None:
        raise ResourceError("store_unavailable", "away")

    monkeypatch.setattr(bench.service.store.files, "delete", away)
    bench.before = [Saved(1, b"a state")]
    job = bench.add()
    bench.run(lambda: bench.status(job) == "done" and not bench.runner.live)
    assert bench.service.metrics.registry.get_sample_value("inkwash_jobs_total", {"end": "done"}) == 1
    assert not bench.failing("store_unavailable")


def test_what_ended_long_ago_is_swept(tiny_model: Path, tmp_path: Path) -> None:
    bench = Bench(tiny_model, tmp_path, keep_hours=1e-6)
    store = bench.service.store
    job = bench.add()
    store.jobs.claim("tiny")
    store.files.put(f"jobs/{job}/0.png", b"old")
    store.files.put(f"jobs/{job}/0.state", b"of a server that died")
    store.jobs.finish(job, [Image(f"jobs/{job}/0.png", "0" * 64, {})], [])
    time.sleep(0.05)
    bench.run(lambda: bench.status(job) == "forgotten" and not (bench.files / f"jobs/{job}").exists())


def old_job(bench: Bench) -> str:
    """A job that ended, with its picture; to be called first."""
    job, store = bench.add(), bench.service.store
    assert store.jobs.claim("tiny") is not None
    store.files.put(f"jobs/{job}/0.png", b"old")
    store.jobs.finish(job, [Image(f"jobs/{job}/0.png", "0" * 64, {})], [])
    time.sleep(0.05)
    return job


def test_files_that_cannot_be_deleted_are_not_forgotten(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_run, "SWEEP_SEC", 0.05)
    bench = Bench(tiny_model, tmp_path, keep_hours=1e-6)
    first, second = old_job(bench), old_job(bench)
    delete, tries = bench.service.store.files.delete, 0

    def away(paths: list[str]) -> None:
        nonlocal tries
        tries += 1
        if first in paths[0] and tries < 4:
            raise ResourceError("store_unavailable", "away")
        delete(paths)

    monkeypatch.setattr(bench.service.store.files, "delete", away)
    bench.run(lambda: {bench.status(job) for job in (first, second)} == {"forgotten"})
    assert not [path for path in bench.files.rglob("*") if path.is_file()]


def test_the_work_goes_on_while_much_is_swept(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, release = Bench(tiny_model, tmp_path, keep_hours=1e-6), threading.Event()
    job, fresh = old_job(bench), bench.add()
    monkeypatch.setattr(bench.service.store.files, "delete", lambda paths: release.wait(60))

    def until() -> bool:
        if bench.status(fresh) == "done":
            release.set()
        return release.is_set()

    bench.run(until)
    assert job != fresh


def test_a_job_that_is_in_work_again_is_not_taken_for_the_one_that_ended(bench: Bench) -> None:
    job = bench.add()
    row = bench.service.store.jobs.claim("tiny") or bench.service.store.jobs.get(job, "alice")
    first, second = Live(row), Live(row)
    bench.runner.live[job] = second
    bench.runner._over(first)
    assert bench.runner.live == {job: second}
    bench.runner._over(second)
    assert bench.runner.live == {}


def test_a_picture_of_a_job_that_cannot_be_taken_in_does_not_stay(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, service = create_app(Settings(models=(str(tiny_model),), db=f"sqlite:///{tmp_path}/jobs.db"))
    service.workers[0].state = "ready"

    async def check(request: Request, start: Start | None) -> tuple[int, int]:
        return 1, 2

    def full(new: New, kept: object) -> None:
        assert list((tmp_path / "files").rglob("*.raw")), "the picture is kept before the job"
        raise ResourceError("store_unavailable", "the disk is full")

    monkeypatch.setattr(service.workers[0], "check", check)
    monkeypatch.setattr(service.store.jobs, "add", full)
    buffer = io.BytesIO()
    new_picture("RGB", (8, 8)).save(buffer, "PNG")

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.post("/v1/jobs", data={"prompt": "x", "size": "32x32"}, files={"image": buffer.getvalue()})

    found = asyncio.run(ask())
    assert (found.status_code, found.json()["error"]["code"]) == (503, "store_unavailable"), found.text
    assert not list((tmp_path / "files").rglob("*.raw"))
