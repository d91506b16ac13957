"""How long files that cannot be written are left alone: 1 s, 2 s, 4 s, at most a minute, until something can be written again.

    well -> failed -> (the pause is over, and a trial can be written) -> open -> well
                                                                             -> failed, and the next pause is twice as long

Whoever has something to write waits at `open`; so nothing is made twice, and no more is made than `jobs_in_work` allows, while a disk is full.
"""

from __future__ import annotations

import asyncio
import time

from inkwash.serve.http.metrics import Metrics

FIRST_SEC, MOST_SEC = 1.0, 60.0


class Pause:
    """`code` says why nothing can be written, "" while all is well; `until` when a trial is due, by the clock of `time.monotonic`."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.code = ""
        self.until = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self._failures = 0

    @property
    def due(self) -> bool:
        """Whether a trial shall be made."""
        return not self.open.is_set() and time.monotonic() >= self.until

    def failed(self, code: str) -> None:
        """Something could not be written. Those that fail in the same pause do not make it longer."""
        if self.open.is_set() or self.due:
            self.until = time.monotonic() + min(MOST_SEC, FIRST_SEC * 2**self._failures)
            self._failures = min(self._failures + 1, 30)
        self.open.clear()
        self._tell(code)

    def worked(self) -> None:
        """Something that was to be kept was written."""
        self._failures = 0
        self._tell("")
        self.open.set()

    def _tell(self, code: str) -> None:
        if self.code and self.code != code:
            self.metrics.files_failing.labels(self.code).set(0)
        if code:
            self.metrics.files_failing.labels(code).set(1)
        self.code = code
