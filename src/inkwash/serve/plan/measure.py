"""A batch curve, measured by the engine itself.

As many unguided tickets as a tick has rows start together, and one is cancelled after every few ticks: so each number of rows from the most to 1
is timed in the engine's own tick, with its cutting into certified calls. The first tick of each number is left out, the median of the others
counts. Guided tickets have the same rows in half as many images: the difference is what an image adds to a tick. Preparing, decoding and
writing are timed as the worker of a server does them. Peak memory is that of this process, which has loaded what a worker loads.
"""

from __future__ import annotations

import datetime
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

from inkwash.job import images
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.serve.engine import Engine
from inkwash.serve.http.worker import deliver
from inkwash.serve.plan.curve import Curve

ROWS = 16                                                  # the engine's own
TICKS = 6                                                  # of each number of rows; the first does not count
MIB = 1 << 20


def measure(pipe: Pipeline, size: tuple[int, int], ticks: int = TICKS) -> Curve:
    """The curve of one worker for images of `size` (width, height)."""
    seconds = _by_tickets(pipe, size, 1.0, ROWS, ROWS, 1, ticks)
    guided = sum(Engine(pipe).rows_of(_ask(pipe, size, 1, 4.0)))
    ticket_sec = 0.0
    if guided > 1:
        fewer = _by_tickets(pipe, size, 4.0, ROWS, ROWS // guided, ROWS // guided, ticks)[ROWS // guided]
        ticket_sec = max(0.0, (seconds[ROWS] - fewer) / (ROWS - ROWS // guided))
    finished = Engine(pipe)
    request = _ask(pipe, size, 1, 1.0)
    ticket = finished.submit(request)
    [image] = [found.image for found in finished.run() if found.image is not None]
    image_sec = sum(_median(what, 5) for what in (lambda: Engine(pipe).submit(request), lambda: images(pipe, [ticket.job]),
                                                  lambda: deliver(image, pipe, "png", 100)))
    names = iter(range(100))
    parts = [pipe.denoiser.network, pipe.codec, pipe.conditioner]
    weights = sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.state_dict().values())
    return Curve(seconds={rows: max(taken - rows * ticket_sec, 1e-9) for rows, taken in sorted(seconds.items())}, ticket_sec=ticket_sec,
                 image_sec=image_sec, encode_sec=_median(lambda: pipe.encode(f"a prompt that is new, number {next(names)}"), 5), guided_rows=guided,
                 weights_mib=weights / MIB, peak_mib=peak(pipe), model=pipe.info.name, hash=pipe.hash, size="{}x{}".format(*size),
                 machine=f"{pipe.device}, {torch.get_num_threads()} threads, {platform.machine()}", date=datetime.date.today().isoformat())


def peak(pipe: Pipeline) -> float:
    """The most MiB that were held: on an accelerator the tensors', else this process's."""
    if pipe.device.type == "cuda":
        return torch.cuda.max_memory_allocated(pipe.device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def _ask(pipe: Pipeline, size: tuple[int, int], steps: int, guidance: float) -> Request:
    return Request("two green cones", "", 1, steps, "ddim", "trailing", guidance, *size)


def _by_tickets(pipe: Pipeline, size: tuple[int, int], guidance: float, rows: int, most: int, least: int, ticks: int) -> dict[int, float]:
    """Median seconds of a tick with each number of tickets from `most` down to `least`."""
    engine, found = Engine(pipe, rows=rows), {}
    tickets = [engine.submit(_ask(pipe, size, (most - least + 1) * ticks + 1, guidance)) for _ in range(most)]
    for number in range(most, least - 1, -1):
        found[number] = _median(engine.tick, ticks - 1)
        engine.cancel(tickets.pop())
    return found


def _median(what: Callable[[], object], times: int) -> float:
    """Median seconds of some calls after one that does not count."""
    what()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return statistics.median(found)
