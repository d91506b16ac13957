"""What a traffic would see: the server's own admission and the engine's own choice, on a clock that only counts.

A request is placed on the worker that will be finished first, or refused, by the functions that the server calls (serve/http/admission.py). A
worker ticks while it has tickets; who takes part is decided by the function that the engine calls (serve/policy.py), and the tick takes the
seconds of the curve. Nothing is random here: the traffic and the curve decide every number. What a network in between adds is not in it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from inkwash.serve.admission import Rate
from inkwash.serve.http.admission import Due, Margin, require_in_time, require_room
from inkwash.serve.http.errors import ApiError
from inkwash.serve.plan.curve import Curve
from inkwash.serve.plan.traffic import Arrival
from inkwash.serve.policy import FairShare, Policy, Standing, choose


class Server(NamedTuple):
    """The settings of a server that decide who waits; one caller asks for everything, whom `queue_per_key` limits where the server has keys."""

    policy: Policy = FairShare()
    queue: int = 64
    queue_per_key: float = math.inf
    patience: int = 4


class Outcome(NamedTuple):
    """How a request ended, and how long after it came."""

    end: Literal["done", "refused", "late"]
    seconds: float


class Seen(NamedTuple):
    """A simulation: the outcome of each request in order, the seconds that workers were busy, and when the last of them rested."""

    outcomes: list[Outcome]
    busy_sec: float
    end_sec: float


@dataclass(eq=False)
class _Ticket:
    number: int
    arrival: Arrival
    rows: int                                              # network rows of a step
    promise: Due = field(default_factory=Due)
    done: int = 0

    @property
    def left(self) -> int:
        return self.rows * (self.arrival.steps - self.done)

    @property
    def due(self) -> float:
        return self.arrival.at + self.arrival.deadline_sec


@dataclass(eq=False)
class _Worker:
    rate: Rate
    margin: Margin = field(default_factory=Margin)
    live: list[_Ticket] = field(default_factory=list)      # oldest first
    chosen: list[_Ticket] = field(default_factory=list)    # of the tick under way
    took: float = 0.0                                      # seconds of it
    ticks: int = 0
    backlog: int = 0
    known: set[str] = field(default_factory=set)           # prompts in the cache of embeddings


class _World:
    def __init__(self, arrivals: Sequence[Arrival], curve: Curve, workers: int, server: Server) -> None:
        self.arrivals, self.curve, self.server = arrivals, curve, server
        self.workers = [_Worker(Rate()) for _ in range(workers)]
        first = min(2 * curve.guided_rows, curve.rows)     # a server has made its golden image when it says that it is ready
        for worker in self.workers:
            worker.rate.value = first / curve.tick(first, 2)
        self.outcomes = [Outcome("refused", 0.0)] * len(arrivals)
        self.ends: list[tuple[float, int]] = []            # ticks under way, by their end
        self.busy_sec = self.now = 0.0

    def run(self) -> Seen:
        for number, arrival in enumerate(self.arrivals):
            while self.ends and self.ends[0][0] <= arrival.at:
                self.end_tick()
            self.come(number, arrival)
        while self.ends:
            self.end_tick()
        return Seen(self.outcomes, self.busy_sec, self.now)

    def come(self, number: int, arrival: Arrival) -> None:
        """A request, placed or refused."""
        ticket = _Ticket(number, arrival, self.curve.guided_rows if arrival.guided else 1)
        place = min(range(len(self.workers)), key=lambda i: self.workers[i].rate.seconds(self.workers[i].backlog))
        worker, server = self.workers[place], self.server
        try:
            require_room(len(worker.live), len(worker.live), 1, server.queue, server.queue_per_key, 0.0)
            ticket.promise = require_in_time(worker.rate, worker.margin, worker.backlog, ticket.left, arrival.steps, arrival.deadline_sec)
        except ApiError:
            return
        worker.live.append(ticket)
        worker.backlog += ticket.left
        if not worker.chosen:
            self.start_tick(place, arrival.at)

    def start_tick(self, place: int, now: float) -> None:
        """The next tick of a worker, if it has anything to do."""
        worker, curve = self.workers[place], self.curve
        for late in [ticket for ticket in worker.live if ticket.due <= now]:
            self.outcomes[late.number] = Outcome("late", late.arrival.deadline_sec)
            worker.margin.learn(late.promise, now - late.arrival.at)
            worker.live.remove(late)
            worker.backlog -= late.left
        worker.chosen = []
        if not worker.live:
            return

        def rank(ticket: _Ticket) -> tuple[float, float]:
            return 0.0, self.server.policy.rank(Standing(ticket.left, ticket.due - now, 0))

        worker.ticks += 1
        by_age = worker.ticks % self.server.patience == 0
        worker.chosen = choose(worker.live, None if by_age else rank, lambda ticket: ticket.rows, lambda ticket: None, curve.rows)
        prompts = {str(ticket.arrival.body.get("prompt", "")) for ticket in worker.chosen} - worker.known
        worker.known |= prompts
        finishing = sum(ticket.done + 1 == ticket.arrival.steps for ticket in worker.chosen)
        worker.took = curve.tick(sum(ticket.rows for ticket in worker.chosen), len(worker.chosen))
        worker.took += finishing * curve.image_sec + len(prompts) * curve.encode_sec
        heapq.heappush(self.ends, (now + worker.took, place))

    def end_tick(self) -> None:
        """The tick that ends first, and the next one of its worker."""
        self.now, place = heapq.heappop(self.ends)
        worker, rows = self.workers[place], 0
        for ticket in worker.chosen:
            ticket.done += 1
            rows += ticket.rows
            if ticket.done == ticket.arrival.steps:
                worker.live.remove(ticket)
                seconds = self.now - ticket.arrival.at
                worker.margin.learn(ticket.promise, seconds)
                late = seconds > ticket.arrival.deadline_sec
                self.outcomes[ticket.number] = Outcome("late", ticket.arrival.deadline_sec) if late else Outcome("done", seconds)
        worker.backlog -= rows
        worker.rate.add(rows, worker.took)
        self.busy_sec += worker.took
        self.start_tick(place, self.now)


def simulate(arrivals: Sequence[Arrival], curve: Curve, workers: int, server: Server) -> Seen:
    """What `workers` workers of that curve make of requests, which come in order of time."""
    return _World(arrivals, curve, workers, server).run()


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that `share` of them do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
