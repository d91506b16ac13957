"""Claims about processes and the spacings that divide them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from inkwash.core.level import Gauge
from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Beta, Karras, Leading, Linspace, LogSNR, Quadratic, Spacing, Trailing, Uniform
from inkwash.verify.chain import Chain
from inkwash.verify.claim import Check, Claim, Measure, below, each
from inkwash.verify.oracle import F64
from inkwash.verify.parts import PROCESSES

TIMES = torch.linspace(0, 1, 2001, dtype=F64)
COUNTS = (1, 2, 3, 7, 20, 30, 50, 600, 1000)


def falls(schedule: Schedule) -> Measure:
    """lam strictly decreases on [0, 1] and is a number everywhere."""
    lam = schedule.lam(TIMES)
    rises = int((~(lam[1:] < lam[:-1])).sum())
    return Measure(rises == 0, f"{rises} of {len(lam) - 1} cells do not fall", "0")


def inverts(schedule: Schedule) -> Measure:
    """time(lam(t)) = t, both ends included."""
    return below(float((schedule.time(schedule.lam(TIMES)) - TIMES).abs().max()), 1e-8)


def unit(gauge: Gauge, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What is 1 in the gauge: alpha^2 + sigma^2, alpha, or alpha + sigma."""
    return {Gauge.VP: alpha**2 + sigma**2, Gauge.VE: alpha, Gauge.FLOW: alpha + sigma}[gauge]


def in_gauge(schedule: Schedule) -> Measure:
    """Levels have the gauge's unit at all times and are finite, and their ratio is lam."""
    level = schedule(TIMES)
    off = (unit(schedule.gauge, *level) - 1).abs().max()
    ratio = (level.lam - schedule.lam(TIMES)).nan_to_num(0.0)[1:-1].abs().max()
    finite = bool(level.alpha.isfinite().all() and level.sigma.isfinite().all())
    return Measure(finite and float(off) < 1e-12 and float(ratio) < 1e-9, f"unit off by {float(off):.2g}, lam by {float(ratio):.2g}",
                   "below 1e-12 and 1e-09", cell=schedule.gauge.value)


def ends(schedule: Schedule) -> Measure:
    """t = 0 is clean, or next to it where sigma never vanishes; leak() is the signal left at t = 1, and is shown."""
    level = schedule(torch.tensor([0.0, 1.0], dtype=F64))
    clean, left = float(level.sigma[0]), float(level.alpha[1] / torch.hypot(level.alpha[1], level.sigma[1]))
    return Measure(clean < 0.01 and abs(left - schedule.leak()) < 1e-12, f"sigma(0) = {clean:.2g}, leak {left:.3g}",
                   f"below 0.01, {schedule.leak():.3g}", cell=f"{left:.2g}")


def transitions(schedule: Schedule) -> Measure | None:
    """For tables: pushing mean and variance through the transitions one by one gives the closed form at every entry."""
    betas: Callable[[], Tensor] | None = getattr(schedule, "betas", None)
    if betas is None:
        return None
    marginals = Chain.of(betas()).marginals
    level = schedule(torch.arange(len(marginals), dtype=F64) / (len(marginals) - 1))
    worst = max(max(abs(float(level.alpha[k]) - a), abs(float(level.sigma[k]) - math.sqrt(v))) for k, (a, v) in enumerate(marginals))
    return below(worst, 1e-9, f"{len(marginals) - 1} entries")


SCHEDULES: tuple[Check[Schedule], ...] = (
    Check(Claim("falls", "lam strictly decreases from clean to noise."), each(falls)),
    Check(Claim("inverse", "time is the inverse of lam."), each(inverts)),
    Check(Claim("unit", "alpha and sigma keep the unit of their gauge, which is shown, and alpha / sigma is e^lam."), each(in_gauge)),
    Check(Claim("ends", "The start is clean, and the signal that is left at the end, which is shown, is what leak() says."), each(ends)),
    Check(Claim("chain", "Closed forms equal the chain of single transitions at every entry of the table."), each(transitions)),
)


def counts(spacing: Spacing) -> Measure:
    """Steps asked are steps made, on every process."""
    wrong = [(n, made) for schedule in PROCESSES for n in COUNTS if (made := spacing.levels(schedule, n).steps) != n
             or len(spacing.levels(schedule, n).points) != n + 1]
    example = f", {wrong[0][1]} steps for {wrong[0][0]}" if wrong else ""
    return Measure(not wrong, f"{len(wrong)} of {len(PROCESSES) * len(COUNTS)} differ{example}", "none differ")


def spans(spacing: Spacing) -> Measure:
    """The first level is the terminal level of the process and the last is clean, whatever the number of steps."""
    off = 0.0
    for schedule in PROCESSES:
        terminal = schedule(1.0)
        for n in COUNTS:
            points = spacing.levels(schedule, n).points
            off = max(off, abs(points[0].alpha - float(terminal.alpha)), abs(points[0].sigma - float(terminal.sigma)),
                      abs(points[-1].alpha - 1), points[-1].sigma)
    return Measure(off == 0, f"off by {off:.3g}", "0")


def descends(spacing: Spacing) -> Measure:
    """Noise strictly decreases from level to level, in the gauge of the process."""
    wrong = 0
    for schedule in PROCESSES:
        for n in COUNTS:
            path = spacing.levels(schedule, n)
            wrong += not bool((path.levels.lam[1:] > path.levels.lam[:-1]).all()) or path.gauge is not schedule.gauge
    return Measure(wrong == 0, f"{wrong} of {len(PROCESSES) * len(COUNTS)} paths do not", "0")


def _index(schedule: Schedule, lam: Tensor) -> Tensor:
    return schedule.time(lam) * 1000


def _even(values: Tensor) -> float:
    """How unequal the differences are, relative to the largest."""
    steps = values.diff()
    return float((steps.max() - steps.min()) / steps.abs().max())


def _beta_law(spacing: Spacing, schedule: Schedule, lam: Tensor) -> Tensor:
    """P(T <= t) of the Beta distribution at the times of `lam`, by Simpson's rule after t = sin^2: the density becomes smooth at both ends."""
    assert isinstance(spacing, Beta)
    angle = torch.asin(schedule.time(lam).sqrt())
    share = torch.linspace(0, 1, 2**14 + 1, dtype=F64)
    total = []
    for end in [*angle.tolist(), math.pi / 2]:
        u = end * share
        density = torch.sin(u).clamp(min=1e-300) ** (2 * spacing.alpha - 1) * torch.cos(u).clamp(min=1e-300) ** (2 * spacing.beta - 1)
        total.append(float(torch.trapezoid(density, u)))
    return torch.tensor(total[:-1], dtype=F64) / total[-1]


def divides(spacing: Spacing) -> Measure | None:
    """The quantity that the spacing divides evenly is even over 10 levels of a table of 1000; integer grids are even up to rounding."""
    schedule, n = PROCESSES[0], 10
    lam = spacing.levels(schedule, n).levels.lam[:-1]
    quantities: dict[type[Spacing], tuple[str, Callable[[], Tensor], float]] = {
        Uniform: ("t", lambda: schedule.time(lam), 1e-9),
        Trailing: ("index", lambda: _index(schedule, lam), 1e-9),
        Leading: ("index below the first", lambda: _index(schedule, lam[1:]), 1e-9),
        Linspace: ("index", lambda: _index(schedule, lam), 1.01 / 111),
        Quadratic: ("sqrt(t)", lambda: schedule.time(lam).sqrt(), 1e-9),
        Karras: ("(sigma / alpha)^(1 / rho)", lambda: torch.exp(-lam / getattr(spacing, "rho", 7.0)), 1e-9),
        LogSNR: ("lam", lambda: lam, 1e-9),
        Beta: ("the Beta distribution of t", lambda: _beta_law(spacing, schedule, lam), 2e-2),
    }
    if type(spacing) not in quantities:
        return None
    name, values, limit = quantities[type(spacing)]
    return below(_even(values()), limit, f"unevenness of {name}")


SPACINGS: tuple[Check[Spacing], ...] = (
    Check(Claim("steps", "Steps asked are steps made."), each(counts)),
    Check(Claim("ends", "From the terminal level of the process to clean, with one step too."), each(spans)),
    Check(Claim("falls", "Noise strictly decreases, in the gauge of the process."), each(descends)),
    Check(Claim("even", "What the spacing says it divides evenly is even."), each(divides)),
)
