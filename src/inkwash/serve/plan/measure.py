"""A batch curve, measured by the engine itself.

As many unguided tickets as a tick has rows start together, and one is cancelled after every few ticks: so each number of rows from the most to 1
is timed in the engine's own tick, with its cutting into certified calls. The first tick of each number is left out, the median of the others
counts. Guided tickets have the same rows in half as many images: the difference is what a further one adds to a tick. What an image costs
besides, from the frame that asks for it to the frame that brings it, is timed in a worker that makes others all the time: alone, with the decoder
still in the caches, it is quicker. Peak memory is that of this process, which has loaded what a worker loads.
"""

from __future__ import annotations

import dataclasses
import datetime
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch

from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.serve.engine import Engine
from inkwash.serve.http.backend import Wish, submission
from inkwash.serve.http.channel import Frame
from inkwash.serve.http.worker import Worker
from inkwash.serve.plan.curve import Curve

ROWS = 16                                                  # the engine's own
TICKS = 10                                                 # of each number of rows; the first does not count
LIVE, APART = 8, 3                                         # images that a worker makes side by side, and the ticks from one's start to the next one's
MIB = 1 << 20


def measure(pipe: Pipeline, size: tuple[int, int], ticks: int = TICKS) -> Curve:
    """The curve of one worker for images of `size` (width, height)."""
    seconds = _by_tickets(pipe, size, 1.0, ROWS, ROWS, 1, ticks)
    guided = sum(Engine(pipe).rows_of(_ask(pipe, size, 1, 4.0)))
    ticket_sec = 0.0
    if guided > 1:
        fewer = _by_tickets(pipe, size, 4.0, ROWS, ROWS // guided, ROWS // guided, ticks)[ROWS // guided]
        ticket_sec = max(0.0, (seconds[ROWS] - fewer) / (ROWS - ROWS // guided))
    names = iter(range(100))
    parts = [pipe.denoiser.network, pipe.codec, pipe.conditioner]
    weights = sum(tensor.numel() * tensor.element_size() for part in parts for tensor in part.state_dict().values())
    return Curve(seconds={rows: max(taken - rows * ticket_sec, 1e-9) for rows, taken in sorted(seconds.items())}, ticket_sec=ticket_sec,
                 image_sec=_by_image(pipe, size, 2 * ticks),
                 encode_sec=_median(lambda: pipe.encode(f"a prompt that is new, number {next(names)}"), 5), guided_rows=guided,
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


def _by_image(pipe: Pipeline, size: tuple[int, int], number: int) -> float:
    """Seconds of an image beside its rows: by how much the ticks before which one comes and in which one ends are longer than the one between."""
    worker = Worker(_packed)
    worker.pipeline, worker.engine = pipe, Engine(pipe)
    asked, found = _ask(pipe, size, LIVE * APART, 1.0), []
    for image in range(LIVE + number):
        seconds = []
        for tick in range(APART):
            began = time.perf_counter()
            if tick == 0:
                worker.handle(submission(image, dataclasses.replace(asked, seed=image), "", None, Wish()))
            worker.tick()
            seconds.append(time.perf_counter() - began)
        found.append(seconds)
    first, plain, last = (statistics.median(times) for times in zip(*found[LIVE:]))
    return max(0.0, first + last - 2 * plain)


def _packed(frame: Frame) -> None:
    """Where a worker's frames go here: as far as a socket."""
    frame.pack()


def _median(what: Callable[[], object], times: int) -> float:
    """Median seconds of some calls after one that does not count."""
    what()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        found.append(time.perf_counter() - began)
    return statistics.median(found)
