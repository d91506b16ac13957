"""What the engine gives for a request, and what it says when the request is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from inkwash.job import Job
from inkwash.output import Image
from inkwash.request import Request

Status = Literal["waiting", "running", "done", "cancelled", "expired"]


@dataclass(eq=False)
class Ticket:
    """A place in an engine. Read it; only the engine writes it. Two tickets are never equal, even for equal requests.

    `number` counts the engine's tickets from 0, so it is also the order of arrival. `cost` is what the request costs in network rows, known
    before anything runs. Times are seconds of the engine's clock; `deadline` is when an unfinished ticket expires, or None.
    """

    number: int
    job: Job
    key: str
    priority: int
    arrived: float
    deadline: float | None
    cost: int
    status: Status = "waiting"

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.job.request

    @property
    def step(self) -> int:
        """Rows of the plan that are done, 0 to `steps`."""
        return self.job.row

    @property
    def steps(self) -> int:
        """Rows of the plan: ticks in which the request takes part."""
        return len(self.job.rows)

    @property
    def left(self) -> int:
        """Network rows still to come."""
        return self.job.left

    @property
    def live(self) -> bool:
        """Whether the engine still works on it."""
        return self.status in ("waiting", "running")


class Finished(NamedTuple):
    """The end of a ticket, told once by `Engine.tick`. `image` is None exactly where `status` is "expired"."""

    ticket: Ticket
    status: Literal["done", "expired"]
    image: Image | None
    seconds: float                                         # from `submit` to now, waiting included
    cached: bool = False                                   # the image was made earlier, for an equal request
