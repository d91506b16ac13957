"""What a worker saves of an order under way, and goes on from: the same file, whatever was saved and wherever it was cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash.request import Request
from inkwash.serve.http import worker as module
from inkwash.serve.http.channel import Frame
from inkwash.serve.http.pictures import read_pictures
from inkwash.serve.http.raster import Raster, Start
from inkwash.serve.http.worker import Worker

ASK = Request("a small red cube", "", 5, 12, "dpmpp_2m_sde", "karras", 3.0, 32, 32)


class Bench:
    """A worker in this process, and what it has sent."""

    def __init__(self, model: Path) -> None:
        self.sent: list[Frame] = []
        self.worker = Worker(self.sent.append)
        self.do("load", folder=str(model), device="cpu", share=1, policy="fair", queue=8)

    def do(self, what: str, body: bytes = b"", **head: Any) -> None:
        self.worker.handle(Frame({"do": what, **head}, body))

    def submit(self, number: int, request: Request, state: bytes = b"") -> dict[str, Any]:
        self.do("submit", state, id=number, request=dataclasses.asdict(request), key="", deadline_sec=None, priority=-1, format="png",
                compression=100, previews=(), start=None, state=len(state))
        [head] = [frame.head for frame in self.sent if frame.head.get("id") == number and frame.head["is"] == "accepted"]
        return head

    def made(self, number: int) -> Frame:
        while self.worker.pending:
            self.worker.tick()
        [frame] = [frame for frame in self.sent if frame.head.get("id") == number and frame.head["is"] == "made"]
        return frame


@pytest.fixture(scope="module")
def bench(tiny_model: Path) -> Bench:
    return Bench(tiny_model)


@pytest.mark.parametrize(("cores", "share", "threads"), [(6, 1, 6), (6, 2, 3), (7, 3, 2), (2, 4, 1)])
def test_workers_of_one_device_share_its_cores(monkeypatch: pytest.MonkeyPatch, cores: int, share: int, threads: int) -> None:
    number = [cores]
    monkeypatch.setattr(torch, "get_num_threads", lambda: number[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda asked: number.__setitem__(0, asked))
    sent: list[Frame] = []
    Worker(sent.append).handle(Frame({"do": "load", "folder": "nowhere", "device": "cpu", "share": share, "policy": "fair", "queue": 8}))
    assert sent[0].head["is"] == "broken"
    assert number == [threads]


def state_of(bench: Bench, number: int, ticks: int) -> bytes:
    """What is saved after some ticks of an order that is then dropped."""
    bench.submit(number, ASK)
    for _ in range(ticks):
        bench.worker.tick()
    bench.do("save", id=number)
    saved = bench.sent[-1]
    assert (saved.head["is"], saved.head["id"], saved.head["done"]) == ("saved", number, ticks)
    bench.do("cancel", id=number)
    bench.do("save", id=number)
    assert bench.sent[-1] is saved, "there is nothing to save any more"
    return saved.body


def test_an_order_goes_on_from_what_was_saved(bench: Bench) -> None:
    bench.submit(1, ASK)
    whole = bench.made(1)
    for number, ticks in ((2, 1), (3, 7), (4, 11)):
        state, rows = state_of(bench, number, ticks), bench.worker.engine.rows_done if bench.worker.engine else 0
        told = bench.submit(10 * number, ASK, state)
        assert (told["done"], told["unused"], told["total"], told["cost"]) == (ticks, "", 12, 24)
        again = bench.made(10 * number)
        assert (again.body, again.head["facts"]) == (whole.body, whole.head["facts"])
        assert bench.worker.engine is not None
        assert bench.worker.engine.rows_done - rows == 2 * (12 - ticks), "what was made is not made again"


def test_a_state_that_does_not_fit_is_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(bench, 5, 3)
    for number, wrong, request, code in ((6, state[:-1], ASK, "suspended_damaged"), (7, state, dataclasses.replace(ASK, seed=6), "other_request")):
        told = bench.submit(number, request, wrong)
        assert (told["done"], told["unused"]) == (0, code)
    monkeypatch.setattr("inkwash.serve.suspend.__version__", "0.0.0")
    assert bench.submit(8, ASK, state)["unused"] == "other_version"
    fresh = [bench.made(number).head["facts"]["pixel_sha256"] for number in (6, 7, 8)]
    assert fresh[0] == fresh[2] != fresh[1]


@pytest.mark.parametrize("spacing", ["Karras(rho=0)", "Karras(rho=0.001)"])
def test_values_that_cannot_be_computed_end_one_request_and_not_the_worker(bench: Bench, spacing: str) -> None:
    bad = dataclasses.asdict(dataclasses.replace(ASK, spacing=spacing))
    bench.do("check", id=900, request=bad, start=None)
    with pytest.raises(ValueError, match="not enough values"):
        bench.submit(901, Request(**bad))
    for frame, number in zip(bench.sent[-2:], (900, 901), strict=True):
        assert (frame.head["is"], frame.head["id"], frame.head["kind"]) == ("failed", number, "UsageError")
    assert not bench.worker.pending


def test_a_mistake_of_ours_in_taking_a_request_in_ends_that_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.worker.engine, "rows_of", lambda request: [][1])
    bench.do("check", id=902, request=dataclasses.asdict(ASK), start=None)
    assert (bench.sent[-1].head["is"], bench.sent[-1].head["code"]) == ("failed", "internal_error")


def test_pictures_of_one_request_are_fitted_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []

    def read(start: Start, width: int, height: int) -> Any:
        fitted.append((start.image.data[:1], width))
        return read_pictures(start, width, height)

    monkeypatch.setattr(module, "read_pictures", read)
    for body, width, strength in ((b"\1", 32, 0.5), (b"\1", 32, 0.5), (b"\2", 32, 0.5), (b"\2", 64, 0.5), (b"\2", 64, 0.5)):
        start = Start(Raster("RGB", 40, 40, body * 4800), None, strength)
        request = dataclasses.asdict(dataclasses.replace(ASK, width=width, height=width))
        bench.do("check", start.body, id=903, request=request, start=start.head)
    assert fitted == [(b"\1", 32), (b"\2", 32), (b"\2", 64)]
