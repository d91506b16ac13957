"""What the web process knows of a worker, beside a link that does what the test says."""

from __future__ import annotations

import asyncio
import fcntl
import math
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inkwash.io.find import read_info
from inkwash.request import Request
from inkwash.serve.http import a1111, backend
from inkwash.serve.http.admission import Due, Margin
from inkwash.serve.http.backend import Backend, Made, Wish
from inkwash.serve.http.channel import LARGE, Decoder, Frame
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.process import Process
from inkwash.serve.http.service import Model, Service, _links
from inkwash.serve.http.settings import Settings
from inkwash.serve.http.worker import work

READY = Frame({"is": "ready", "model": "m", "hash": "h", "determinism": "exact", "golden": "g", "rate": 1.0})


class Way:
    """A link that is ready at once; `lost` ends its life, `gone` lets `close` return. Its first `broken` lives end with `error`."""

    saves = True

    def __init__(self, broken: int = 0, error: Exception | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.lost, self.gone, self.closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.broken = broken
        self.error = error

    def send(self, frame: Frame) -> None:
        self.sent.append(frame.head)

    async def run(self, take: Callable[[Frame], None]) -> None:
        if self.broken and self.error is not None:
            self.broken -= 1
            raise self.error
        take(READY)
        await self.lost.wait()

    async def close(self) -> None:
        self.closing.set()
        await self.gone.wait()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


async def begun(worker: Backend) -> asyncio.Task[None]:
    """Its life, once it is ready."""
    running = asyncio.create_task(worker.run())
    await until(lambda: worker.state == "ready")
    return running


def submit(worker: Backend) -> backend.Order:
    return worker.submit(Request("x"), "alice", 1.0, Due(), Wish(), None)


def test_a_lost_worker_takes_nothing_while_its_process_ends() -> None:
    async def scene() -> None:
        way = Way()
        worker = Backend("m@cpu", way, Metrics(), lambda: None)
        running = await begun(worker)
        order = submit(worker)
        way.lost.set()
        await way.closing.wait()
        with pytest.raises(ApiError, match="started again"):
            [_ async for _ in order.each()]
        with pytest.raises(ApiError) as found:
            submit(worker)
        assert found.value.code == "model_loading"
        assert worker.live == {}
        running.cancel()

    asyncio.run(scene())


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), KeyError("a mistake of ours")])
def test_a_worker_that_cannot_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(backend, "_BACKOFF_SEC", (0.0,))

    async def scene() -> None:
        way = Way(2, error)
        way.gone.set()
        worker = Backend("m@cpu", way, Metrics(), lambda: None)
        running = asyncio.create_task(worker.run())
        await until(lambda: worker.state == "ready" or running.done())
        assert worker.state == "ready"
        running.cancel()

    asyncio.run(scene())


def test_a_process_that_cannot_be_started_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*words: str, **more: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)

    async def scene() -> bool:
        link = Process({}, 600.0)
        with pytest.raises(OSError, match="Too many"):
            await link.run(lambda frame: None)
        assert link._writer is not None
        return link._writer.is_closing()

    assert asyncio.run(scene())


HANGS = """import socket, sys, time
from inkwash.serve.http.channel import Decoder, Frame
sock, decoder, asked = socket.socket(fileno=int(sys.argv[1])), Decoder(), 0
sock.sendall(Frame({"is": "ready"}).pack())
while data := sock.recv(1 << 16):
    for frame in decoder.feed(data):
        asked += frame.head["do"] == "ask"
        if asked == 3:
            time.sleep(1000)
        if frame.head["do"] == "ask":
            sock.sendall(Frame({"is": "here"}).pack())
"""


def test_a_process_that_hangs_is_killed_and_one_without_work_is_not(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    start = asyncio.create_subprocess_exec

    def instead(*words: str, **more: Any) -> Any:
        return start(sys.executable, "-c", HANGS, words[-1], **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", instead)

    async def scene() -> tuple[list[dict[str, Any]], float, int | None]:
        link, told, began = Process({"device": "cpu"}, 2.0), [], time.monotonic()
        async with asyncio.timeout(60):
            await link.run(lambda frame: told.append(frame.head))
        took = time.monotonic() - began
        await link.close()
        assert link._process is not None
        return told, took, link._process.returncode

    told, took, code = asyncio.run(scene())
    assert told == [{"is": "ready"}]
    assert took >= 4.0, "asked three times after a second of silence, and given another second the last time"
    assert code == -signal.SIGKILL
    assert [record.message for record in caplog.records] == ["a worker says nothing"]


def test_a_model_is_known_by_any_worker_that_was_ready(tiny_model: Path) -> None:
    workers = [Backend(f"m@{device}", Way(), Metrics(), lambda: None) for device in ("cpu", "cuda")]
    model = Model(tiny_model, read_info(tiny_model), workers)
    assert model.facts == {}
    workers[1]._take(Frame({**READY.head, "hash": "0123456789abcdef"}))
    made = Made(b"", {"seed": 7, "nfe": 1, "infotext": "", "pixel_sha256": ""})
    assert a1111.info([Request("x")], [made], model, [])["sd_model_hash"] == "0123456789"


def test_a_worker_is_metered_as_soon_as_it_is_ready() -> None:
    metrics = Metrics()
    Backend("m@cpu", Way(), metrics, lambda: None)._take(READY)
    assert metrics.registry.get_sample_value("inkwash_engines", {"worker": "m@cpu"}) == 1


def test_a_worker_learns_how_far_its_predictions_err(monkeypatch: pytest.MonkeyPatch) -> None:
    """From images that came, and from those that did not come in time; what was given up before its deadline tells nothing."""
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    worker = Backend("m@cpu", Way(), Metrics(), lambda: None)
    worker._take(READY)

    def after(took: float, end: Callable[[backend.Order], None]) -> float:
        nonlocal clock
        order = worker.submit(Request("x"), "alice", 1.0, Due(10.0, 10.0, 8.0), Wish(), None)
        clock += took
        end(order)
        return worker.margin.value

    def made(order: backend.Order) -> None:
        worker._take(Frame({"is": "made", "id": order.number, "facts": {}}))

    def failed(order: backend.Order) -> None:
        worker._take(Frame({"is": "expired", "id": order.number}))

    assert after(9.0, worker.cancel) == after(8.7, made) == Margin.LEAST
    first = after(9.0, made)
    assert first > Margin.LEAST
    second = after(10.5, worker.cancel)
    assert after(10.5, failed) > second > first
    assert worker.metrics.registry.get_sample_value("inkwash_wait_margin", {"worker": "m@cpu"}) == worker.margin.value


def test_two_workers_on_one_device_have_names_of_their_own() -> None:
    links = _links(Settings(device="cpu,cuda, cpu"), Path("m"), "m")
    assert [name for name, _ in links] == ["cpu#0", "cuda", "cpu#2"]
    launched = [link.launch for _, link in links if isinstance(link, Process)]
    assert [one["device"] for one in launched] == ["cpu", "cuda", "cpu"]
    assert [one["share"] for one in launched] == [2, 1, 2], "they share its cores"


def test_who_waits_does_not_queue_behind_nobody(tiny_model: Path, tmp_path: Path) -> None:
    service = Service(Settings(models=(str(tiny_model),), device="cpu,cpu", db=f"sqlite:///{tmp_path}/jobs.db"), Metrics())
    [model] = service.models.values()
    for worker in model.workers:
        worker.state, worker.link, worker.rate.value = "ready", Way(), 100.0
    job, ask = [Request("x", steps=1000)] * 8, [Request("x", steps=10, width=32, height=32)]
    busy, _ = service.place(model, job, "alice", math.inf, Wish(), patient=True)
    placed = [service.place(model, ask, "bob", 120.0, Wish())[0] for _ in range(10)]
    assert placed.count(busy) == 5, "a job gives way, so it is no reason to go elsewhere"
    other, _ = service.place(model, job, "alice", math.inf, Wish(), patient=True)
    assert other is not busy, "a job waits for the other one too"
    service.store.database.close()


def test_a_preview_is_asked_for_once_a_step() -> None:
    async def scene() -> None:
        way = Way()
        worker = Backend("m@cpu", way, Metrics(), lambda: None)
        running = await begun(worker)
        order = submit(worker)
        asked = []
        for done in (0, 1, 2):
            order.done = done
            for _ in range(5):
                worker.ask_preview(order)
            asked.append([head["do"] for head in way.sent].count("preview"))
        assert asked == [0, 1, 2]
        running.cancel()

    asyncio.run(scene())


def test_a_worker_can_have_a_socket_of_any_number() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < 2048:
        pytest.skip("this machine gives a process few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    ours, theirs = socket.socketpair()
    with socket.socket(fileno=fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, 1500)) as high:
        ours.close()
        theirs.close()
        work(high)                                         # returns, for the other end is closed
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_pictures_of_one_request_go_to_its_process_once() -> None:
    async def scene() -> tuple[list[Frame], int]:
        ours, theirs = socket.socketpair()
        link = Process({}, 600.0)
        _, link._writer = await asyncio.open_connection(sock=ours)
        bodies = [bytes([i]) * LARGE for i in (1, 1, 1, 2)]
        for i, body in enumerate(bodies):
            link.send(Frame({"id": i}, body))
        link.send(Frame({"do": "cancel"}))                 # the worker has the last one only until another frame comes
        link.send(Frame({"id": 5}, bodies[-1]))
        await asyncio.sleep(0)
        link.send(Frame({"id": 4}, bodies[-1]))            # much later: it may have forgotten
        link._writer.write_eof()
        other, _ = await asyncio.open_connection(sock=theirs)
        data = await other.read()
        link._writer.close()
        return list(Decoder().feed(data)), len(data)

    frames, size = asyncio.run(scene())
    assert [(frame.head.get("again", False), frame.body[:1]) for frame in frames] == [
        (False, b"\1"), (True, b""), (True, b""), (False, b"\2"), (False, b""), (False, b"\2"), (False, b"\2")]
    assert size < 4.1 * LARGE
