"""Signals that end a run: SIGINT and SIGTERM are remembered until the running step is finished; a second SIGINT interrupts at once.

Ctrl-C under torchrun reaches a process twice, from the terminal and from torchrun: within a second it counts once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ONCE_SEC = 1.0
TOLD = b"stopping as soon as the step is finished and saved; Ctrl-C again stops at once\n"


class Stop:
    """`signal` is the number of the first that came, 0 before; `tell` on stderr what it means."""

    def __init__(self, tell: bool = False) -> None:
        self.tell = tell
        self.signal, self._came = 0, 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._came = number, time.monotonic()
            if self.tell:
                os.write(2, TOLD)                          # what a handler may do: print could be in the middle of a line
        elif number == signal.SIGINT and time.monotonic() - self._came > ONCE_SEC:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
