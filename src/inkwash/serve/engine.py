"""The engine: requests come and go, and every tick advances some of them by one row, unlike ones in one network call.

    tick:  rank the live tickets -> take the best of one shape until `rows` network rows are together -> one guided evaluation for all of them
           -> each advances by its own row -> those that are done are decoded

Since a Job is all there is between rows, whoever is not chosen simply waits: to put a request aside costs nothing, to cancel it is to drop
its row, to look at it is to decode its x0. Synchronous and, but for deadlines, deterministic; calls must come from one thread at a time.

Bounded wait: every `patience`-th tick chooses by age alone. The oldest ticket then advances for certain, so a ticket of K rows with older
ones of K_1..K_n rows is done within patience * (K + K_1 + .. + K_n) ticks of its submission, whatever arrives later and whatever the policy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from types import NoneType

from torch import Tensor

from inkwash.cond import Cond
from inkwash.errors import CheckpointError, UsageError, expect
from inkwash.job import Job, condition, images, prepare, preview, step, survey
from inkwash.pipeline import Pipeline
from inkwash.request import Request, check_int
from inkwash.serve.admission import Rate, Refused
from inkwash.serve.embeddings import Embeddings, encoder_hash
from inkwash.serve.policy import Policy, ShortestRemaining, Standing, choose
from inkwash.serve.results import Results
from inkwash.serve.suspend import pack, unpack
from inkwash.serve.ticket import Finished, Ticket

SHORTEST = ShortestRemaining()


class Engine:
    """Requests on one pipeline, stepped together.

    `rows` is the most network rows of one tick, `queue` the most live tickets, `patience` how many ticks the oldest may be passed over,
    `embeddings` a cache of conditions (shared with other engines, or its own), `results` the number of finished images to keep for equal
    requests of the same key: 0 keeps none. `clock` gives seconds.
    """

    def __init__(self, pipeline: Pipeline, *, policy: Policy = SHORTEST, rows: int = 16, queue: int = 256, patience: int = 4,
                 embeddings: Embeddings | None = None, results: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        expect(pipeline, Pipeline, "pipeline")
        expect(policy, Policy, "policy")
        expect(embeddings, (Embeddings, NoneType), "embeddings")
        self.pipeline = pipeline
        self.policy = policy
        self.rows = check_int(rows, "rows", "bad_value", 1, 4096)
        self.queue = check_int(queue, "queue", "bad_value", 1, 1_000_000)
        self.patience = check_int(patience, "patience", "bad_value", 1, 1_000_000)
        self.embeddings = Embeddings() if embeddings is None else embeddings    # an empty one is false
        self.results = Results(check_int(results, "results", "bad_value", 0, 1_000_000))
        self.clock = clock
        self.rate = Rate()
        self.ticks = 0
        self.rows_done = 0                                 # network rows, all tickets
        self._number = 0
        self._live: dict[int, Ticket] = {}                 # by number, oldest first
        self._ready: list[Finished] = []                   # ended without a row, to be told at the next tick
        self._served: dict[str, int] = {}                  # rows of each key that has live tickets
        self._closed = False
        pipeline.denoiser.eval()

    @property
    def live(self) -> tuple[Ticket, ...]:
        """Tickets that are waiting or running, oldest first."""
        return tuple(self._live.values())

    @property
    def pending(self) -> bool:
        """Whether `tick` has anything to do or to tell."""
        return bool(self._live or self._ready)

    @property
    def backlog(self) -> int:
        """Network rows owed to all live tickets."""
        return sum(ticket.left for ticket in self._live.values())

    def cost(self, request: Request) -> int:
        """What the request costs in network rows, exactly: the number that its image will report as nfe. Raises what `submit` raises for it."""
        return sum(self.rows_of(request))

    def rows_of(self, request: Request) -> tuple[int, ...]:
        """`cost`, step by step."""
        return tuple(survey(self.pipeline, request, self.pipeline.plan(request))[1])

    def submit(self, request: Request, *, key: str = "", deadline_sec: float | None = None, priority: int = 0) -> Ticket:
        """Takes a request in. Nothing runs before the next tick, but everything about it is checked.

        `key` names whose it is: for fair shares, and as the tenant of the caches. A ticket that is not done `deadline_sec` from now expires.
        Higher `priority` goes first, under any policy. Raises UsageError for a request that the model cannot make; Refused (a ResourceError
        with `retry_sec`): `queue_full`, `deadline_unreachable`, `engine_closed`. A refused request leaves nothing behind.
        """
        self._require_room()
        priority = _checked(key, deadline_sec, priority)
        job = prepare(self.pipeline, request)
        known = self.results.get(key, request)
        if known is not None:
            ticket = self._ticket(job, key, None, priority)
            ticket.status = "done"
            self._ready.append(Finished(ticket, "done", known, 0.0, cached=True))
            return ticket
        return self._admit(job, key, deadline_sec, priority)

    def resume(self, data: bytes, *, of: Request | None = None, key: str = "", deadline_sec: float | None = None, priority: int = 0) -> Ticket:
        """Takes in what `suspend` wrote, here or in another process; it goes on at its row.

        Raises CheckpointError, see `suspend.unpack`, and `other_request` where it is not one for `of`; Refused as `submit` does.
        """
        self._require_room()
        expect(data, bytes, "what was suspended")
        priority = _checked(key, deadline_sec, priority)
        job = unpack(self.pipeline, data)
        if of is not None and job.request != of:
            raise CheckpointError("other_request", "what was suspended is another request than this one; submit this one again")
        return self._admit(job, key, deadline_sec, priority)

    def suspend(self, ticket: Ticket) -> bytes:
        """Takes a live ticket out (its status is then "cancelled") and returns all that it takes to go on. Raises what `save` raises."""
        data = self.save(ticket)
        self.cancel(ticket)
        return data

    def save(self, ticket: Ticket) -> bytes:
        """All that it takes to go on with a live ticket from its present row, which stays where it is.

        Raises UsageError `not_live`, and `not_saved` for a model without a hash.
        """
        expect(ticket, Ticket, "a ticket")
        if self._live.get(ticket.number) is not ticket:
            raise UsageError("not_live", f"ticket {ticket.number} is {ticket.status}; only a live one can be suspended")
        return pack(self.pipeline, ticket.job)

    def cancel(self, ticket: Ticket) -> bool:
        """Drops a ticket before its next row; True if it was live. A cancelled ticket is not reported by `tick`."""
        expect(ticket, Ticket, "a ticket")
        if self._live.get(ticket.number) is not ticket:
            return False
        ticket.status = "cancelled"
        self._remove(ticket)
        return True

    def preview(self, ticket: Ticket) -> Tensor | None:
        """The picture (3, H, W) uint8 as the ticket's last row saw it; None before the first. Costs a decoding and no network row."""
        expect(ticket, Ticket, "a ticket")
        return preview(self.pipeline, ticket.job)

    def wait_sec(self, cost: int = 0, *, key: str = "", deadline_sec: float | None = None, priority: int = 0) -> float:
        """About how long a request of that cost in network rows would take from now; 0 while the speed is not yet known.

        Rows of the tickets that the policy puts before it, and its own, at the measured rate; and one part in `patience` more for the ticks of age.
        """
        served = self._served.get(key, min(self._served.values(), default=0))
        new = -priority, self.policy.rank(Standing(cost, math.inf if deadline_sec is None else deadline_sec, served))
        ahead = sum(ticket.left for ticket in self._live.values() if self._rank(ticket) <= new)
        rest = self.backlog - ahead
        return self.rate.seconds(cost + ahead + min(rest, (cost + ahead) // self.patience))

    def close(self) -> None:
        """Takes no more requests; live ones can be brought to their end by `tick`."""
        self._closed = True

    def tick(self) -> list[Finished]:
        """One step of the best tickets, and what has ended since the last tick. Without live tickets nothing is computed.

        An error of the model leaves every ticket as it was before; one whose decoding failed is decoded at the next tick.
        """
        ended, self._ready = self._ready, []
        now = self.clock()
        for ticket in self.live:
            if ticket.deadline is not None and ticket.deadline <= now:
                ticket.status = "expired"
                self._remove(ticket)
                ended.append(Finished(ticket, "expired", None, now - ticket.arrived))
        began = time.perf_counter()
        try:
            chosen = self._choose()
            spent = self._advance(chosen) if chosen else 0
            ended += self._deliver()
        except BaseException:
            self._ready = ended + self._ready              # what has ended is still to be told
            raise
        self.rate.add(spent, time.perf_counter() - began)
        return ended

    def run(self) -> list[Finished]:
        """Ticks until nothing is live. Returns all that has ended."""
        ended: list[Finished] = []
        while self.pending:
            ended += self.tick()
        return ended

    def _choose(self) -> list[Ticket]:
        """The tickets of the next tick."""
        waiting = [ticket for ticket in self._live.values() if not ticket.job.done]
        self.ticks += bool(waiting)
        rank = None if self.ticks % self.patience == 0 else self._rank
        return choose(waiting, rank, lambda ticket: ticket.job.rows[ticket.step], lambda ticket: ticket.job.program.x.shape, self.rows)

    def _rank(self, ticket: Ticket) -> tuple[float, float]:
        due = math.inf if ticket.deadline is None else ticket.deadline - self.clock()
        return -ticket.priority, self.policy.rank(Standing(ticket.left, due, self._served[ticket.key]))

    def _advance(self, chosen: Sequence[Ticket]) -> int:
        """One row of each. Returns the network rows spent."""
        for ticket in chosen:
            if ticket.job.conds is None:
                condition(self.pipeline, [ticket.job], self._encoder(ticket.key))
                ticket.status = "running"
        self.pipeline.call_seconds(tuple(chosen[0].job.program.x.shape), self.rows)      # tests a new shape of x, once
        before = sum(ticket.job.nfe for ticket in chosen)
        step(self.pipeline, [ticket.job for ticket in chosen])
        spent = sum(ticket.job.nfe for ticket in chosen) - before
        for ticket in chosen:
            self._served[ticket.key] += ticket.job.rows[ticket.step - 1]
        self.rows_done += spent
        return spent

    def _deliver(self) -> list[Finished]:
        """The end of the tickets whose rows are all done."""
        done = [ticket for ticket in self._live.values() if ticket.job.done]
        ended = []
        for ticket, image in zip(done, images(self.pipeline, [ticket.job for ticket in done]), strict=True):
            ticket.status = "done"
            self._remove(ticket)
            self.results.put(ticket.key, image)
            ended.append(Finished(ticket, "done", image, self.clock() - ticket.arrived))
        return ended

    def _encoder(self, tenant: str) -> Callable[[str | None], Cond]:
        return lambda text: self.embeddings.get(self._encoder_hash, tenant, text, self.pipeline.encode)

    @cached_property
    def _encoder_hash(self) -> str:
        return encoder_hash(self.pipeline.conditioner)

    def _require_room(self) -> None:
        if self._closed:
            raise Refused("engine_closed", "the engine takes no more requests", 0.0)
        if len(self._live) >= self.queue:
            raise Refused("queue_full", f"{len(self._live)} requests are waiting or running, as many as may be; try again later",
                          self.rate.seconds(min(ticket.left for ticket in self._live.values())))

    def _admit(self, job: Job, key: str, deadline_sec: float | None, priority: int) -> Ticket:
        if deadline_sec is not None:
            wait = self.wait_sec(job.left, key=key, deadline_sec=deadline_sec, priority=priority)
            if wait > deadline_sec:
                raise Refused("deadline_unreachable", f"this would be done in about {wait:.1f} s, after its deadline of {deadline_sec:g} s; "
                                                      "ask for fewer steps or more time, or try again later", wait - deadline_sec)
        ticket = self._ticket(job, key, deadline_sec, priority)
        self._served.setdefault(key, min(self._served.values(), default=0))
        self._live[ticket.number] = ticket
        return ticket

    def _ticket(self, job: Job, key: str, deadline_sec: float | None, priority: int) -> Ticket:
        now, self._number = self.clock(), self._number + 1
        return Ticket(self._number - 1, job, key, priority, now, None if deadline_sec is None else now + deadline_sec, job.left)

    def _remove(self, ticket: Ticket) -> None:
        del self._live[ticket.number]
        if not any(other.key == ticket.key for other in self._live.values()):
            del self._served[ticket.key]


def _checked(key: object, deadline_sec: float | None, priority: object) -> int:
    """The priority. Raises UsageError for what cannot be a ticket's key, deadline or priority."""
    expect(key, str, "key")
    if deadline_sec is not None:
        expect(deadline_sec, (int, float), "deadline_sec", "bad_deadline")
        if not (math.isfinite(deadline_sec) and deadline_sec > 0):
            raise UsageError("bad_deadline", f"deadline_sec must be a finite number above 0, got {deadline_sec}")
    return check_int(priority, "priority", "bad_value", -1_000_000, 1_000_000)
