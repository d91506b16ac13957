"""A prediction against a live server: the same traffic, simulated and sent, and the error of each number.

The number of workers is the server's own, and its meters tell how long they were busy. A curve knows no network in between: the time of an answer
that costs nothing is taken before the load, and added to the times predicted. An error is measured / predicted - 1; of shares, the difference.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from inkwash.errors import ResourceError
from inkwash.serve.load import Target, report, run, solo_over_http, wrong
from inkwash.serve.plan.answer import Row
from inkwash.serve.plan.curve import Curve
from inkwash.serve.plan.traffic import Arrival

SHARES = ("kept", "refused", "late", "busy")


class Compared(NamedTuple):
    """A number that was predicted, and what was measured."""

    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """measured / predicted - 1, or of shares the difference."""
        return self.measured - self.predicted if self.name in SHARES else self.measured / self.predicted - 1


class Meters(NamedTuple):
    """Work of engines: seconds of ticks, their number, and network rows in them."""

    seconds: float
    ticks: float
    rows: float


class Tick(NamedTuple):
    """The mean tick of the load: its rows, its seconds by the curve, and as it was. Where these differ, the curve is wrong and not the simulation."""

    rows: float
    predicted: float
    measured: float


class Proof(NamedTuple):
    """All comparisons, and what a prediction says nothing about: errors, and wrong pictures among the checked ones."""

    compared: list[Compared]
    load: dict[str, float]
    wrong: int
    checked: int
    tick: Tick | None


def workers_of(target: Target, model: str) -> int:
    """How many engines a server has ready for a model, replicas of Ray too. Raises ResourceError `server_unreachable`, `model_not_served`."""
    found = dict(re.findall(r'^inkwash_engines\{worker="(.*)"\} (\S+)$', target.read("/metrics").decode(), re.MULTILINE))
    number = sum(int(float(engines)) for name, engines in found.items() if name.rpartition("@")[0] == model)
    if not number:
        raise ResourceError("model_not_served", f"the server has no ready worker of {model}; it has {', '.join(found) or 'none'}")
    return number


def prove(target: Target, arrivals: Sequence[Arrival], row: Row, curve: Curve, price: float, sample: int) -> Proof:
    """Sends the traffic that `row` was predicted for with `curve`. Raises ResourceError `server_unreachable`."""
    trip, before = trip_sec(target), meters(target)
    sent = run(target, arrivals, sample)
    spent = Meters(*(late - early for late, early in zip(meters(target), before)))
    load = report(sent)
    expected = row._replace(p50=row.p50 + trip, p95=row.p95 + trip, p99=row.p99 + trip)
    bad, checked = wrong(sent, solo_over_http(target))
    return Proof(compare(load, spent, expected, price), load, bad, checked, tick_of(arrivals, curve, spent, int(load["done"])))


def tick_of(arrivals: Sequence[Arrival], curve: Curve, spent: Meters, done: int) -> Tick | None:
    """The mean tick beside that of the curve, images left aside; None where there was none."""
    if not spent.ticks:
        return None
    rows = spent.rows / spent.ticks
    each = sum(a.steps * (curve.guided_rows if a.guided else 1) for a in arrivals) / sum(a.steps for a in arrivals)
    return Tick(rows, curve.tick(max(1, round(rows)), round(rows / each)), (spent.seconds - done * curve.image_sec) / spent.ticks)


def trip_sec(target: Target) -> float:
    """Median seconds of an answer that needs no engine."""
    found = []
    for _ in range(9):
        began = time.perf_counter()
        target.read("/v1/models")
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def meters(target: Target) -> Meters:
    """What the engines of a server have done since it began."""
    text = target.read("/metrics").decode()
    names = "inkwash_step_seconds_sum", "inkwash_step_seconds_count", "inkwash_rows_total"
    return Meters(*(sum(map(float, re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE))) for name in names))


def compare(load: dict[str, float], spent: Meters, row: Row, price: float) -> list[Compared]:
    """The numbers of a row beside those of a load; percentiles only where images were made, busy only where ticks were told: replicas tell none."""
    number, span = load["requests"], load["span_sec"]
    pairs = {"kept": load["done"] / number, "refused": load["refused"] / number, "late": load["late"] / number}
    if spent.ticks:
        pairs["busy"] = spent.seconds / (row.workers * span)
    if load["done"] and row.kept:
        pairs = {"p50": load["p50"], "p95": load["p95"], "p99": load["p99"], "images_per_sec": load["done"] / span, **pairs}
        if price:
            pairs["image_cost"] = row.workers * price / 3600 * span / load["done"]
    return [Compared(name, float(getattr(row, name)), measured) for name, measured in pairs.items()]
