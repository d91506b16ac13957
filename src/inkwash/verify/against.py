"""Another library's schedulers put to our oracles, and the scoreboard.

The library keeps its own loop state and arithmetic; we play the network, exactly. For a Gaussian the network is affine and schedulers are
linear in x, x0 and noise, so coefficients over unit noises go through a scheduler as they go through our kernel, and mean and variance come
out without sampling. A survey does not fail: what differs from what is stated is marked, and the note says where it is by design.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash._version import __version__
from inkwash.core import noise
from inkwash.core.level import Level
from inkwash.core.spacing import Path, Point
from inkwash.errors import UsageError
from inkwash.sample import Program, Sampler, run
from inkwash.value import parse
from inkwash.verify import adapters
from inkwash.verify.adapter import Candidate, Library, Ride
from inkwash.verify.claim import Check, Claim, Finding, Measure, Report, each
from inkwash.verify.oracle import DATA, F64, affine, quantile_start, slope

COUNTS = (24, 48, 96, 192)
ASKED, UNEVEN = 20, 30                                     # of 1000 entries: one divides them and one does not
MANY = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 40, 50)
PLACES = torch.tensor([[1.3, -0.6, 0.8]], dtype=F64)
ROUNDING = 2e-6                                            # of float32 tables: smaller errors say nothing about order
SEED = 31

Network = Callable[[Tensor, Level], Tensor]


class Visit(NamedTuple):
    """x before a call, and where it stands."""

    level: Point
    x: Tensor
    outer: bool


def as_level(point: Point) -> Level:
    """The point as tensors ()."""
    return Level(torch.tensor(point.alpha, dtype=F64), torch.tensor(point.sigma, dtype=F64))


def go(ride: Ride, start: Callable[[Point], Tensor], network: Network, draw: Callable[[int, Tensor], Tensor]) -> tuple[list[Visit], Tensor]:
    """The ride from `start` of its first level to the end: every visit, and what comes out."""
    x, seen = start(ride.level), []
    for row in range(ride.calls):
        level = ride.level
        seen.append(Visit(level, x, ride.outer))
        x = ride.step(x, network(x, as_level(level)), draw(row, x))
    return seen, x


def order(candidate: Candidate) -> Measure | None:
    """Reached between the first level and the last one before clean, on levels as even in lam as can be."""
    facts = candidate.facts
    if facts.order == 0:
        return None
    pairs = [(n, _error(candidate, n)) for n in COUNTS]
    seen = [(n, error) for n, error in pairs if error > ROUNDING]
    if len(seen) < 2:
        return Measure(True, "rounding at all steps", str(facts.order), cell="rounding")
    found = slope([n for n, _ in seen], [error for _, error in seen])
    errors = ", ".join(f"{error:.1e}" for _, error in pairs)
    if facts.order is None:
        return Measure(True, f"{found:.2f}", "none stated", f"errors {errors}", f"{found:.2f}")
    return Measure(found > facts.order - 0.4, f"{found:.2f}", f"{facts.order}", f"errors {errors} at {', '.join(map(str, COUNTS))} steps",
                   f"{found:.2f} ({facts.order})")


def _error(candidate: Candidate, steps: int) -> float:
    ride = candidate.even_ride(steps)
    if candidate.facts.stochastic:
        return _moment_error(ride)
    seen, _ = go(ride, lambda level: quantile_start(as_level(level), PLACES), DATA.denoise, lambda row, x: torch.zeros_like(x))
    first, last = seen[0], next(visit for visit in reversed(seen) if visit.outer)
    return float((last.x - DATA.flow(first.x, as_level(first.level), as_level(last.level))).norm())


def _moment_error(ride: Ride, mean: float = 0.5, variance: float = 0.25) -> float:
    def start(level: Point) -> Tensor:
        return _coefficients(ride.calls, level.alpha * mean, math.sqrt(level.alpha**2 * variance + level.sigma**2))

    seen, _ = go(ride, start, _affine(mean, variance), _unit)
    last = next(visit for visit in reversed(seen) if visit.outer)
    expected = last.level.alpha * mean, last.level.alpha**2 * variance + last.level.sigma**2
    return math.hypot(float(last.x[0, 0]) - expected[0], float((last.x[0, 1:] ** 2).sum()) - expected[1])


def calls(candidate: Candidate) -> Measure:
    """Calls for every number of steps from 1 to 50 are what the documentation says."""
    facts, wrong, refused = candidate.facts, [], []
    for n in MANY:
        try:
            made = candidate.ride(n).calls
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            refused.append((n, type(error).__name__))
            continue
        if made != facts.calls_a_step * n - facts.fewer:
            wrong.append((n, made))
    made = candidate.ride(ASKED).calls
    note = f"{facts.note}; " * bool(facts.note) + (f"{refused[0][1]} at {', '.join(str(n) for n, _ in refused)} steps; " if refused else "")
    more = f", {wrong[0][1]} for {wrong[0][0]}, {len(wrong)} of {len(MANY)} differ" if wrong else ""
    return Measure(not wrong, f"{made} calls for {ASKED} steps{more}",
                   f"{facts.calls_a_step} a step{f', {facts.fewer} fewer' if facts.fewer > 0 else f', {-facts.fewer} more' if facts.fewer else ''}",
                   note.rstrip("; "), f"{ASKED} -> {made}")


def terminal(candidate: Candidate) -> Measure:
    """The first call stands at the noisiest level of the process."""
    first, last = candidate.ride(ASKED).level, candidate.terminal
    signals = [point.alpha / math.hypot(*point) for point in (first, last)]
    same = first.lam == last.lam or abs(first.lam - last.lam) < 1e-3
    return Measure(same, f"signal {signals[0]:.3g} at the first of {ASKED} calls", f"{signals[1]:.3g}", cell=f"{signals[0]:.2g} ({signals[1]:.2g})")


def _miss(candidate: Candidate, steps: int) -> float:
    image = torch.tensor([[0.3, -0.7]], dtype=F64)
    _, x = go(candidate.ride(steps), lambda level: level.sigma * noise.normal((1, 2), SEED, 0, 0, "start").double(),
              lambda x, level: image, lambda row, x: noise.normal(x.shape, SEED, 0, row, "step").to(x))
    return float((x - image).abs().max())


def point(candidate: Candidate) -> Measure:
    """Data that are one point stay on alpha x0 + sigma (unit noise) at every level, where the steps divide the table and where they do not."""
    worst = {}
    for steps in (ASKED, UNEVEN):
        ride = candidate.ride(steps)
        seen, _ = go(ride, _start(ride), _affine(1.0, 0.0), _unit)
        worst[steps] = max(max(abs(float(x[0, 0]) - level.alpha), abs(float(x[0, 1:].norm()) - level.sigma)) / math.hypot(*level)
                           for level, x, outer in seen if outer)
    off = max(worst.values())
    return Measure(off < 1e-3, ", ".join(f"{value:.1e} at {steps} steps" for steps, value in worst.items()), "below 1e-03",
                   "before the last step", "/".join(f"{value:.0e}" for value in worst.values()))


def _start(ride: Ride) -> Callable[[Point], Tensor]:
    return lambda level: _coefficients(ride.calls, level.alpha, level.sigma)


def _coefficients(rows: int, constant: float, unit: float) -> Tensor:
    x = torch.zeros(1, 2 + rows, dtype=F64)                # (1, M): some schedulers want a batch
    x[0, 0], x[0, 1] = constant, unit
    return x


def _affine(mean: float, variance: float) -> Network:
    inner = affine(mean, variance)
    return lambda x, level: inner(x[0], level)[None]


def _unit(row: int, x: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    z[0, 2 + row] = 1
    return z


def lands(candidate: Candidate) -> Measure:
    """When the data are one image, the image comes out."""
    miss, end = _miss(candidate, ASKED), candidate.ride(ASKED).end
    note = f"{ASKED} steps, data that are one point" + (f"; it says that it ends at sigma = {end.sigma:.2g}" if end.sigma else "")
    return Measure(miss < 1e-4, f"misses x0 by {miss:.1e}", "below 1e-04", note, f"{miss:.0e}")


def one_step(candidate: Candidate) -> Measure:
    """So it does in one step."""
    miss = _miss(candidate, 1)
    return Measure(miss < 1e-4, f"misses x0 by {miss:.1e}", "below 1e-04", cell=f"{miss:.0e}")


def parity(candidate: Candidate) -> Measure | None:
    """Our sampler on their levels, from the same start and with the same noise, makes the same x."""
    facts = candidate.facts
    if facts.ours is None:
        return None

    def begin(level: Point) -> Tensor:
        return level.sigma * noise.normal((1, 3), SEED, 0, 0, "start").double()

    ride = candidate.ride(ASKED)
    seen, theirs = go(ride, begin, DATA.denoise, lambda row, x: noise.normal(x.shape, SEED, 0, row, "step").to(x))
    points = [*(visit.level for visit in seen if visit.outer), ride.end]
    path = Path(facts.gauge, Level(*torch.tensor(points, dtype=F64).T))
    plan = parse(facts.ours, Sampler).plan(path)  # type: ignore[type-abstract]
    ours = run(lambda x, level, index: DATA.denoise(x[0], level)[None], [Program(plan, SEED, 0, begin(points[0]))])[0].x
    off = float((ours - theirs).abs().max())
    note = f"{ASKED} steps, same levels and noise"
    return Measure(off < 1e-3, f"differs from {facts.ours} by {off:.1e}", "below 1e-03", note, f"{facts.ours} {off:.0e}")


CHECKS: tuple[Check[Candidate], ...] = (
    Check(Claim("order", "Order reached on even levels before the last step (in brackets: as stated), by regression."), each(order)),
    Check(Claim("calls", f"Steps asked -> calls made, of {ASKED}; {len(MANY)} numbers from 1 to {MANY[-1]} are tried."), each(calls)),
    Check(Claim("start", f"Share of the signal at the first of {ASKED} calls (in brackets: at the end of the process)."), each(terminal)),
    Check(Claim("point", f"How far data that are one point leave alpha x0 + sigma noise, at {ASKED} and at {UNEVEN} steps."), each(point)),
    Check(Claim("x0", f"How far {ASKED} steps miss the image when the data are one image."), each(lands)),
    Check(Claim("one step", "How far one step misses it."), each(one_step)),
    Check(Claim("parity", "The largest difference from our sampler of that name, on their levels and the same noise."), each(parity)),
)


def compare(name: str, only: str | None = None) -> Report:
    """The scoreboard of an installed library. Raises UsageError `unknown_library`, `missing_library`, `unknown_part`."""
    return scoreboard(adapters.load(name), only)


def scoreboard(library: Library, only: str | None = None) -> Report:
    """Every claim on every candidate of the library, narrowed to those whose name holds `only`."""
    begun = time.perf_counter()
    chosen = {one.facts.name: one for one in library.candidates()}
    if only is not None:
        chosen = {name: one for name, one in chosen.items() if only.lower() in name.lower()}
    if not chosen:
        raise UsageError("unknown_part", f"{library.name} has nothing called {str(only)[:40]!r}; leave --only out to see all names")
    findings: list[Finding] = []
    with torch.no_grad():
        for check in CHECKS:
            findings += check.find(library.name, chosen)
    head = [("inkwash", __version__), (library.name, library.version), ("torch", torch.__version__), ("python", platform.python_version())]
    return Report(f"{library.name} against exact answers", tuple(check.claim for check in CHECKS), tuple(findings), time.perf_counter() - begun,
                  tuple(head), survey=True)
