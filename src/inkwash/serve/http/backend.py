"""A worker as the web process sees it: orders go out, events come back, and a worker that dies is replaced.

    loading -> ready -> (dies) -> loading -> ready ...        broken: its model cannot be loaded

An Order is one image. Its events are read by exactly one caller; whoever stops reading cancels it, and the worker drops its row before
the next step. When the worker is lost, every open order is refused with `engine_restarted`. How frames travel is the business of a Link: to
a process of this machine, or to replicas on many.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, NamedTuple, Protocol

import inkwash.errors
from inkwash.errors import InkwashError
from inkwash.request import Request
from inkwash.serve.admission import Rate
from inkwash.serve.http.admission import Due, Margin
from inkwash.serve.http.channel import Frame
from inkwash.serve.http.errors import ApiError, from_code
from inkwash.serve.http.metrics import Metrics
from inkwash.serve.http.raster import Start

LOG = logging.getLogger("inkwash.serve")
TOLD = ("hash", "determinism", "golden", "threads")        # what the log says of a worker that is ready; of Ray's replicas, which differ, not all
_BACKOFF_SEC = (0.1, 1.0, 2.0, 5.0, 10.0, 30.0)


class Wish(NamedTuple):
    """How an image shall be delivered: its file format, and at which steps previews are wanted."""

    format: str = "png"
    compression: int = 100
    previews: tuple[int, ...] = ()


def submission(number: int, request: Request, owner: str, deadline_sec: float | None, wish: Wish, start: Start | None = None,
               patient: bool = False, state: bytes = b"") -> Frame:
    """What a worker is told of an order."""
    return Frame({"do": "submit", "id": number, "request": dataclasses.asdict(request), "key": owner, "deadline_sec": deadline_sec,
                  "priority": -1 if patient else 0, "format": wish.format, "compression": wish.compression, "previews": wish.previews,
                  "start": start and start.head, "state": len(state)}, state + (start.body if start is not None else b""))


class Accepted(NamedTuple):
    """The request is valid and waits for its first step, or after `step` steps that were made before for the next one."""

    step: int = 0


class Step(NamedTuple):
    """`done` of `total` steps are made."""

    done: int
    total: int


class Preview(NamedTuple):
    """What the image looks like at a step, as a picture file."""

    step: int
    data: bytes


class Saved(NamedTuple):
    """All that it takes to go on after a step, here or in another process."""

    step: int
    data: bytes


class Made(NamedTuple):
    """The image, and the facts about it: nfe, seed, pixel_sha256, warnings and the like."""

    data: bytes
    facts: dict[str, Any]


Event = Accepted | Step | Preview | Saved | Made | ApiError


class Order:
    """One image in work. `cost` in rows, of which `left` are still owed; `seen` is the last preview; nobody waits for a `patient` one."""

    def __init__(self, number: int, request: Request, owner: str, cost: float, due: Due, patient: bool) -> None:
        self.number = number
        self.request = request
        self.owner = owner
        self.cost = cost
        self.due = due
        self.began = time.monotonic()
        self.patient = patient
        self.done, self.total = 0, request.steps
        self.seen = b""
        self.looked = 0                                    # the step at which a preview was asked for last
        self.saving = False                                # its state was asked for and is not yet kept
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    @property
    def left(self) -> float:
        """Rows still owed."""
        return self.cost * (1.0 - self.done / max(1, self.total))

    async def each(self) -> AsyncIterator[Event]:
        """Events up to the image. Raises ApiError when there will be none."""
        while True:
            event = await self.events.get()
            if isinstance(event, ApiError):
                raise event
            yield event
            if isinstance(event, Made):
                return


class Link(Protocol):
    """The way to one engine, or to several equal ones; `saves` says whether the state of an order can be asked for."""

    saves: bool

    def send(self, frame: Frame) -> None:
        """Sends a frame towards the engine; dropped where the way is lost, which `run` then tells by its end."""

    async def run(self, take: Callable[[Frame], None]) -> None:
        """One life, from its start to its loss: `take` is given all frames that come back."""

    async def close(self) -> None:
        """Waits until what `run` started is gone."""


class Backend:
    """A model, on whatever is at the end of a link: `engines` of them, `rate` is that of all, and `margin` how far predictions by it err."""

    def __init__(self, name: str, link: Link, metrics: Metrics, changed: Callable[[], None]) -> None:
        self.name = name
        self.link = link
        self.metrics = metrics
        self.changed = changed
        self.state = "loading"
        self.facts: dict[str, Any] = {}
        self.failure: InkwashError | None = None
        self.engines = 1
        self.rate = Rate()
        self.margin = Margin()
        self.live: dict[int, Order] = {}
        self._checks: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._numbers = count(1)

    @property
    def backlog(self) -> int:
        """Rows owed to all orders."""
        return self.before(patient=True)

    def before(self, patient: bool) -> int:
        """Rows owed to the orders that a further one has to wait for: a patient one to all, another one to those that are not patient."""
        return math.ceil(sum(order.left for order in self.live.values() if patient or not order.patient))

    def submit(self, request: Request, owner: str, cost: float, due: Due, wish: Wish, start: Start | None,
               patient: bool = False, state: bytes = b"") -> Order:
        """Sends a request to the worker; a patient one gets what others leave, and one with a Saved `state` goes on from there if it can.

        Raises ApiError 503 `model_loading` while there is no worker.
        """
        self._require_ready()
        order = Order(next(self._numbers), request, owner, cost, due, patient)
        self.live[order.number] = order
        self._send(*submission(order.number, request, owner, due.engine_sec, wish, start, patient, state))
        self._measure()
        return order

    async def check(self, request: Request, start: Start | None) -> tuple[int, int]:
        """(cost in rows, steps) of a request, which nothing is done for. Raises ApiError for one that the model cannot make."""
        self._require_ready()
        number = next(self._numbers)
        self._checks[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"do": "check", "id": number, "request": dataclasses.asdict(request), "start": start and start.head},
                       start.body if start is not None else b"")
            return await self._checks[number]
        finally:
            del self._checks[number]

    def _require_ready(self) -> None:
        if self.state != "ready":
            raise ApiError(503, "model_loading", "the model is being loaded; try again later", retry_sec=5)

    def cancel(self, order: Order) -> None:
        """Drops an order that is not finished; a finished one is left alone."""
        if self.live.pop(order.number, None) is not None:
            self.metrics.images.labels(self.facts["model"], "cancelled").inc()
            self._learn(order, False)
            order.events.put_nowait(ApiError(409, "cancelled", "the image was cancelled"))
            self._send({"do": "cancel", "id": order.number})
            self._measure()

    def save(self, order: Order) -> None:
        """Wants a Saved event of the order as it stands, where the link can."""
        if self.link.saves:
            order.saving = True
            self._send({"do": "save", "id": order.number})

    def ask_preview(self, order: Order) -> None:
        """Wants a Preview event of the order as it stands, once for each step: it costs the time of others."""
        if order.done > order.looked:
            order.looked = order.done
            self._send({"do": "preview", "id": order.number})

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self.link.send(Frame(head, body))

    async def run(self) -> None:
        """Keeps a worker alive until cancelled; returns when its model cannot be loaded."""
        failed = 0
        while True:
            lived = await self._once()
            if self.state == "broken":
                return
            failed = 0 if lived else failed + 1
            self.metrics.restarts.labels(self.name).inc()
            LOG.error("a worker died", extra={"fields": {"worker": self.name}})
            await asyncio.sleep(_BACKOFF_SEC[min(failed, len(_BACKOFF_SEC) - 1)])

    async def _once(self) -> bool:
        """One life of the link; whether it was ever ready for work."""
        lived = False
        try:
            await self.link.run(self._take)
        except OSError as error:                           # there is no socket or process to be had; another try may find one
            LOG.error("a worker cannot be started", extra={"fields": {"worker": self.name, "error": str(error)}})
        except Exception:                                  # without a next life it would be gone for good, and nobody would know why
            LOG.exception("a bug", extra={"fields": {"worker": self.name}})
        finally:
            lived = self.state == "ready"
            if lived:
                self.state = "loading"                     # before anything is awaited: nobody would answer what is accepted from here on
                self.changed()
            orders, self.live = list(self.live.values()), {}
            lost = ApiError(503, "engine_restarted", "the engine was lost and is started again; ask again", retry_sec=5)
            for order in orders:
                self._end(order, lost)
            for waiting in self._checks.values():
                _settle(waiting, lost)
            self._measure()
            await self.link.close()
        return lived

    def _take(self, frame: Frame) -> None:
        head = frame.head
        order = self.live.get(head.get("id", 0))
        if head["is"] == "ready":
            self.facts, self.state = head, "ready"
            self.rate.value = head["rate"]
            LOG.info("a worker is ready", extra={"fields": {"worker": self.name, **{name: head[name] for name in TOLD if name in head}}})
            self.changed()
            self._measure()
        elif head["is"] == "broken":
            self.state = "broken"
            self.failure = getattr(inkwash.errors, head["kind"])(head["code"], head["message"])
            self.changed()
        elif head["is"] == "tick":
            self._tick(head)
        elif head["is"] == "engines":
            self._engines(head)
        elif head.get("id", 0) in self._checks:
            _settle(self._checks[head["id"]], (head["cost"], head["total"]) if head["is"] == "checked" else _failed(head))
        elif order is None:
            return                                         # it was cancelled meanwhile
        elif head["is"] == "accepted":
            order.total, order.cost, order.done = head["total"], head["cost"], head["done"]
            if head["unused"]:
                LOG.warning("a saved state was not used", extra={"fields": {"worker": self.name, "code": head["unused"]}})
            order.events.put_nowait(Accepted(order.done))
        elif head["is"] == "saved":
            order.events.put_nowait(Saved(head["done"], frame.body))
        elif head["is"] == "step":
            self._step(order, head["done"])
        elif head["is"] == "preview":
            order.seen = frame.body
            order.events.put_nowait(Preview(head["step"], frame.body))
        elif head["is"] == "made":
            self._end(order, Made(frame.body, head["facts"]))
        elif head["is"] == "expired":
            self._end(order, ApiError(504, "deadline_exceeded", "the deadline has passed; ask for less, or for more time", retry_sec=1))
        elif "retry_sec" in head:
            self._end(order, ApiError(503, head["code"], head["message"], retry_sec=head["retry_sec"]))
        elif head["is"] == "failed":
            self._end(order, _failed(head))

    def _tick(self, head: dict[str, Any]) -> None:
        self.rate.add(head["rows"], head["sec"])
        self.metrics.step.labels(self.name).observe(head["sec"])
        self.metrics.occupancy.labels(self.name).observe(head["rows"])
        self.metrics.rows.labels(self.name).inc(head["rows"])
        for number, done in head["done"]:
            if number in self.live:
                self._step(self.live[number], done)
        self._measure()

    def _step(self, order: Order, done: int) -> None:
        if done > order.done:                              # less is old news of an image that is made again
            order.done = done
            order.events.put_nowait(Step(done, order.total))

    def _engines(self, head: dict[str, Any]) -> None:
        """How many engines there are now, how fast all of them are, and what they did since the last time."""
        self.engines, self.rate.value = head["engines"], head["rate"]
        self.metrics.rows.labels(self.name).inc(head["rows"])
        self.state = "ready" if self.engines else "loading"
        self.changed()
        self._measure()

    def _end(self, order: Order, event: Made | ApiError) -> None:
        self.live.pop(order.number, None)
        self.metrics.images.labels(self.facts.get("model", ""), "made" if isinstance(event, Made) else event.code).inc()
        self._learn(order, isinstance(event, Made))
        order.events.put_nowait(event)
        self._measure()

    def _learn(self, order: Order, made: bool) -> None:
        """How long it took, or, where it ends without an image after its deadline, at least takes. One that ends earlier says nothing."""
        took = time.monotonic() - order.began
        if made or took >= order.due.caller_sec:
            self.margin.learn(order.due, took)
            self.metrics.margin.labels(self.name).set(self.margin.value)

    def _measure(self) -> None:
        self.metrics.live.labels(self.name).set(len(self.live))
        self.metrics.backlog.labels(self.name).set(self.backlog)
        self.metrics.rate.labels(self.name).set(self.rate.value)
        self.metrics.engines.labels(self.name).set(self.engines if self.state == "ready" else 0)
        self.metrics.wait.labels(self.name).set(self.rate.seconds(self.backlog))


def _failed(head: dict[str, Any]) -> ApiError:
    return from_code(getattr(inkwash.errors, head["kind"]), head["code"], head["message"])


def _settle(waiting: asyncio.Future[tuple[int, int]], found: tuple[int, int] | ApiError) -> None:
    if not waiting.done():
        if isinstance(found, ApiError):
            waiting.set_exception(found)
        else:
            waiting.set_result(found)
