"""What a run tells: JSON lines on disk always, TensorBoard where it is installed, a progress bar on a terminal.

One line of `log.jsonl` is one event with its step. Resuming from step s drops the lines after s, so a file never tells a step twice.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inkwash.io.durable import write_text

LOG = "log.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """All complete lines of a run's log."""
    path = run / LOG
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue                                                                    # the line that a killed process was writing
    return events


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
        self._file = (run / LOG).open("a", encoding="utf-8")
        if sys.stderr.isatty() if bar is None else bar:
            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, file=sys.stderr)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)  # type: ignore[no-untyped-call]

    def event(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line; numbers go to TensorBoard as well."""
        if self.quiet:
            return
        self._file.write(json.dumps({"event": kind, "step": step, "elapsed_sec": round(time.monotonic() - self._began, 2), **values}) + "\n")
        self._file.flush()
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
            self._board.close()
