"""From a traffic and a curve to a number of workers: by division, and by simulation.

Division is what a spreadsheet does. An image is w = steps (rows row_sec + ticket_sec) + image_sec seconds of work in full batches, so a worker
makes 1 / w images a second, and a rate R takes ceil(R w) workers, busy for the share R w / workers. It assumes that every batch is full and
that nobody ever waits. The simulation assumes neither: the answer is the least number of workers that finish 99 % of the requests by
their deadlines. `notes` says where the two part, in numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from inkwash.errors import UsageError
from inkwash.serve.plan.curve import Curve
from inkwash.serve.plan.simulate import Seen, Server, percentile, simulate
from inkwash.serve.plan.traffic import Arrival

KEPT = 0.99
SPARE = 1.2
MOST_WORKERS = 1000


class Division(NamedTuple):
    """What a division says. `spare` is a fifth more workers, `busy` their share of time, `image_cost` in the currency of the price."""

    images_per_sec: float                                  # of one worker
    workers: int
    spare: int
    busy: float
    image_cost: float


class Row(NamedTuple):
    """What the simulation saw with some workers; percentiles are of the images that were made, in seconds."""

    workers: int
    p50: float
    p95: float
    p99: float
    kept: float                                            # share made by their deadlines
    refused: float
    late: float
    busy: float
    images_per_sec: float
    image_cost: float


@dataclass(frozen=True)
class Answer:
    """The plan. `least` is None where no number of `rows` keeps the deadlines; `peak_mib` is of all workers, 0 where it was not measured."""

    rate: float
    requests: int
    price: float
    division: Division
    rows: tuple[Row, ...]
    least: int | None
    peak_mib: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not a number, such as a percentile of no images, is None."""
        rows = [{name: None if math.isnan(value) else value for name, value in row._asdict().items()} for row in self.rows]
        return {**dataclasses.asdict(self), "division": self.division._asdict(), "rows": rows}


def work_sec(arrival: Arrival, curve: Curve, row_sec: float) -> float:
    """Seconds of a worker that one image takes, when a row takes `row_sec`."""
    rows = curve.guided_rows if arrival.guided else 1
    return arrival.steps * (rows * row_sec + curve.ticket_sec) + curve.image_sec


def divide(rate: float, image_sec: float, price: float) -> Division:
    """The division; `price` is that of a worker for an hour. A rate that workers meet exactly needs no further one."""
    load = rate * image_sec
    workers = max(1, math.ceil(load - 1e-9))
    return Division(1 / image_sec, workers, math.ceil(SPARE * workers - 1e-9), load / workers, price / 3600 * image_sec)


def row_of(seen: Seen, workers: int, price: float) -> Row:
    """A simulation in a row."""
    done = [outcome.seconds for outcome in seen.outcomes if outcome.end == "done"]
    share = {end: sum(outcome.end == end for outcome in seen.outcomes) / len(seen.outcomes) for end in ("done", "refused", "late")}
    cost = workers * price / 3600 * seen.end_sec / len(done) if done else math.nan
    return Row(workers, percentile(done, 0.5), percentile(done, 0.95), percentile(done, 0.99), share["done"], share["refused"], share["late"],
               seen.busy_sec / (workers * seen.end_sec) if seen.end_sec else 0.0, len(done) / seen.end_sec if seen.end_sec else 0.0, cost)


def plan(arrivals: Sequence[Arrival], rate: float, curve: Curve, server: Server, price: float, workers: int | None = None) -> Answer:
    """The answer for a traffic of `rate` requests a second; with `workers` only that number is simulated.

    Raises UsageError `too_many_workers`, `deadline_impossible`.
    """
    _require_possible(arrivals, curve)
    divided = divide(rate, sum(work_sec(arrival, curve, curve.row_sec()) for arrival in arrivals) / len(arrivals), price)
    if (workers or divided.workers) > MOST_WORKERS:
        raise UsageError("too_many_workers", f"this takes {workers or divided.workers} workers, and at most {MOST_WORKERS} are simulated; "
                                             "give less traffic")
    rows: dict[int, Row] = {}

    def enough(number: int) -> bool:
        rows[number] = row_of(simulate(arrivals, curve, number, server), number, price)
        return rows[number].kept >= KEPT

    least = workers or _least(enough, divided.workers, 2 * divided.spare + 8)
    for number in {workers} if workers else {least or divided.spare, divided.spare}:
        if number not in rows:
            enough(number)
    chosen = rows[least or max(rows)]
    return Answer(rate, len(arrivals), price, divided, tuple(rows[number] for number in sorted(rows)), least if chosen.kept >= KEPT else None,
                  curve.peak_mib * chosen.workers, tuple(_notes(arrivals, rate, curve, server, divided, rows, chosen, price)))


def _least(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The least number from `low` to `high` that is enough, by halving; None when not even `high` is."""
    if enough(low):
        return low
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _require_possible(arrivals: Sequence[Arrival], curve: Curve) -> None:
    for arrival in arrivals:
        alone = arrival.steps * curve.tick(curve.guided_rows if arrival.guided else 1, 1) + curve.image_sec
        if alone > arrival.deadline_sec:
            raise UsageError("deadline_impossible", f"an image of {arrival.steps} steps takes {alone:.3g} s on an idle worker, and its deadline is "
                                                    f"{arrival.deadline_sec:.3g} s; no number of workers helps; give fewer steps or more time")


def _notes(arrivals: Sequence[Arrival], rate: float, curve: Curve, server: Server, divided: Division, rows: Mapping[int, Row], chosen: Row,
           price: float) -> list[str]:
    """Where the division is optimistic, as far as it is."""
    found = []
    full, alone = curve.full, curve.tick(1, 0)
    if full > 1 and alone / curve.row_sec() > 0.9 * full:
        without = [divide(rate, sum(work_sec(a, curve, alone / gain) for a in arrivals) / len(arrivals), price).workers for gain in (1.0, 1.5)]
        found.append(f"the curve says that a batch of {full} takes as long as one row; with no gain from batching it is {without[0]} workers, "
                     f"with a gain of 1.5 it is {without[1]}")
    least = rows.get(divided.workers)
    if least is not None and least.kept < KEPT:
        found.append(f"nobody waits in a division; with its number of workers {1 - least.kept:.1%} are late or refused")
    if divided.busy > 0.8 and chosen.workers == divided.workers:
        busier = [arrival._replace(at=arrival.at / SPARE) for arrival in arrivals]
        worse = row_of(simulate(busier, curve, chosen.workers, server), chosen.workers, price)
        if worse.kept < KEPT:
            found.append(f"the workers are {divided.busy:.0%} busy; with a fifth more traffic {1 - worse.kept:.1%} are late or refused")
    if price and chosen.image_cost > 1.05 * divided.image_cost:
        found.append(f"a division pays for full batches alone; simulated, an image costs {chosen.image_cost / divided.image_cost:.2f} times as much")
    return found
