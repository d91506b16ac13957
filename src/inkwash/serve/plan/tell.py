"""A plan in words."""

from __future__ import annotations

from collections.abc import Iterator

from inkwash.serve.plan.answer import KEPT, Answer, Row
from inkwash.serve.plan.curve import Curve


def tell(answer: Answer, curve: Curve) -> Iterator[str]:
    """The lines of a plan."""
    divided = answer.division
    yield f"traffic       {answer.requests} requests, {answer.rate:.4g} a second"
    yield f"one worker    {divided.images_per_sec:.4g} images a second in full batches ({curve.full} rows in {curve.seconds[curve.full]:.4g} s)"
    yield f"by division   {_workers(divided.workers)}, {divided.busy:.0%} busy; {divided.spare} with a fifth to spare"
    if answer.price:
        hours = 1000 / divided.images_per_sec / 3600
        yield (f"              1000 images: {60 * hours:.1f} min of a worker, {hours:.3f} h, {hours * answer.price:.3g} at {answer.price:g} an hour, "
               f"{100 * divided.image_cost:.3g} cents each")
    enough = answer.least is not None
    found = f"{_workers(answer.least or answer.rows[-1].workers)} {'enough' if enough else 'not enough'}"
    yield f"simulated     {found} for {KEPT:.0%} in time"
    if answer.peak_mib:
        yield f"memory        {answer.peak_mib:.0f} MiB for all workers, {curve.peak_mib:.0f} MiB each, of these {curve.weights_mib:.0f} MiB weights"
    yield ""
    yield "workers     p50 s     p95 s     p99 s   in time   refused      late      busy" + ("   cents" if answer.price else "")
    for row in answer.rows:
        yield line(row, bool(answer.price))
    for note in answer.notes:
        yield f"optimistic: {note}"


def line(row: Row, cost: bool) -> str:
    """A row of the table."""
    times = "".join(f"{value:10.3f}" for value in (row.p50, row.p95, row.p99))
    shares = "".join(f"{value:10.1%}" for value in (row.kept, row.refused, row.late, row.busy))
    return f"{row.workers:7d}{times}{shares}" + (f"{100 * row.image_cost:8.3g}" if cost else "")


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number != 1 else ''}"
