"""Admission: a bounded number of tickets, and how long a new one would take.

Work is counted in network rows. The engine measures how many it does in a second, and what is left of every ticket is known exactly, so the
time until a new request would be done is (rows that go before it + its own) / rate: nobody has to wait to learn that they waited in vain.
"""

from __future__ import annotations

import math

from inkwash.errors import ResourceError

MEMORY_SEC = 5.0                                           # of work, after which a measured rate has faded to 1 / e


class Refused(ResourceError):
    """The engine takes no more now. `retry_sec` is a guess when it may, 0 where it has not yet measured its speed.

    Codes: `queue_full` (as many tickets as it may hold), `deadline_unreachable` (it would be late), `engine_closed` (it takes none any more).
    """

    def __init__(self, code: str, message: str, retry_sec: float) -> None:
        super().__init__(code, message)
        self.retry_sec = retry_sec


class Rate:
    """Network rows in a second of work, and in a tick, as means that forget.

    No tick counts for more than half: one in which the process was stopped, or its machine, for an hour would else refuse whatever has a deadline.
    """

    def __init__(self) -> None:
        self.value = 0.0                                   # a second; 0: not yet measured
        self.tick = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One tick's work."""
        if rows > 0 and seconds > 0:
            keep = max(0.5, math.exp(-seconds / MEMORY_SEC)) if self.value else 0.0
            self.value = keep * self.value + (1.0 - keep) * rows / seconds
            self.tick = keep * self.tick + (1.0 - keep) * rows

    def seconds(self, rows: float) -> float:
        """How long `rows` take; 0 before the first measurement."""
        return rows / self.value if self.value else 0.0
