"""What a run tells: JSON lines on disk always, TensorBoard where it is installed, a progress bar on a terminal.

One line of `log.jsonl` is one event with its step. Resuming from step s drops the lines after s, so a file never tells a step twice.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inkwash.io.durable import space_for, write_text
from inkwash.train import checkpoint

LOG = "log.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """All complete lines of a run's log."""
    path = run / LOG
    lines = path.read_bytes().splitlines() if path.is_file() else []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue                                                                    # the line that a killed process was writing
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


class CacheLines:
    """A Progress that says in lines how far a cache is; nothing of one that takes less than `every` seconds."""

    def __init__(self, say: Callable[[str], None], every: float = 10.0) -> None:
        self._say, self._every = say, every
        self._what, self._first, self._began, self._told = "", 0, 0.0, 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._first, self._began, self._told = what, done, now, now
            if 0 < done < total:
                self._say(f"cache {what}: {done} of {total} are there from before")
        elif now - self._told >= self._every or (done == total and self._told > self._began):
            left = (now - self._began) * (total - done) / max(1, done - self._first)
            self._say(f"cache {what}: {done} of {total}" + (f", about {math.ceil(left / 60)} min left" if done < total else ""))
            self._told = now


class Log:
    """Opened at step `start`; `quiet` for the processes of a distributed run that are not the first."""

    def __init__(self, run: Path, start: int, total: int, *, quiet: bool = False, bar: bool | None = None) -> None:
        self.run, self.quiet = run, quiet
        self._began = time.monotonic()
        self._bar: tqdm[Any] | None = None
        self._board: Any = None
        if quiet:
            return
        kept = [event for event in read_log(run) if event.get("step", 0) <= start] if start else []
        write_text(run / LOG, "".join(json.dumps(event) + "\n" for event in kept))
        self._file = (run / LOG).open("ab", buffering=0)
        if sys.stderr.isatty() if bar is None else bar:
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            with space_for(run, 0, checkpoint.intact(run)):
                self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)  # type: ignore[no-untyped-call]

    def event(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line; numbers go to TensorBoard as well. Raises ResourceError `disk_full`."""
        if self.quiet:
            return
        event = {"event": kind, "step": step, "elapsed_sec": round(time.monotonic() - self._began, 2), **values}
        line = memoryview((json.dumps(event) + "\n").encode())
        with space_for(self.run, len(line), checkpoint.intact(self.run)):
            while line:
                line = line[self._file.write(line):]
            if self._board is not None:
                for name, value in values.items():
                    if isinstance(value, int | float) and not isinstance(value, bool):
                        self._board.add_scalar(f"{kind}/{name}", value, step)

    def progress(self, step: int, loss: float, rate: float) -> None:
        """Moves the bar to `step`; `rate` in samples per second."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}, {rate:.1f} img/s", refresh=False)
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """One line on stderr."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def image(self, step: int, path: Path) -> None:
        """Shows a picture in TensorBoard."""
        if self._board is not None:
            import numpy as np
            from PIL import Image

            self._board.add_image("sample", np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        if self.quiet:
            return
        self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            with space_for(self.run, 0, checkpoint.intact(self.run)):
                self._board.close()
