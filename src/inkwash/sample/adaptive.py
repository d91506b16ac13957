"""A path whose steps are as long as a tolerance allows, found by probing the denoiser with a few samples.

A program must be a table that is known before it runs, so step sizes cannot depend on the sample. But trajectories of one model look alike:
the levels that suit a few probes suit the others. Between two levels the sampler takes one step and again two half steps; their difference is
the error of the longer one, e ~ C h^(order + 1) (step doubling: Hairer, Norsett & Wanner 1993, section II.4). Lengths h are in the angle
atan2(sigma, alpha), which is finite at pure noise and at the clean image. Local errors add up in ways that they do not show, so the whole
path is then run against the same path with every step cut in four, and the local tolerance is corrected until the difference is as asked.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Path
from inkwash.errors import UsageError
from inkwash.sample.plan import Sampler
from inkwash.sample.run import Denoise, Program, run
from inkwash.sample.singlestep import Heun

HEUN = Heun("flow")
MOST_STEPS = 1000
TRIALS = 10
FIRST = 1 / 8                                              # of the whole angle: the first step that is tried


def adaptive_path(denoise: Denoise, schedule: Schedule, x: Tensor, tolerance: float, sampler: Sampler = HEUN) -> Path:
    """A path from the schedule's terminal level to the clean image on which `sampler` errs by about `tolerance` on the probes x (N, ...).

    x are samples at the terminal level, such as `prior` gives; a handful is enough. The error is the root mean square of a sample's numbers,
    averaged over the probes, in units of clean data. It is an estimate: other samples are as far off on average, single ones may be further.
    Even steps in t on a process that was made for the data can be as good; where process and data do not fit, this needs fewer evaluations.
    Raises UsageError `bad_tolerance` where more than 1000 steps would be needed, `bad_sampler` for a sampler that draws noise.
    """
    if sampler.stochastic or sampler.order < 1:
        raise UsageError("bad_sampler", f"{sampler} draws noise or claims no order, so that its error cannot be read from halved steps; "
                                        "give a sampler of the ODE such as heun, rk4 or dpmpp_2m")
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise UsageError("bad_tolerance", f"tolerance is {tolerance:g}; give a number above 0, such as 0.01")
    local, best, fewest = tolerance / 4, None, MOST_STEPS + 1
    low, high = 0.0, math.inf                              # local tolerances known to be strict enough, and too loose
    for _ in range(TRIALS):
        path = _march(denoise, schedule, x, local, sampler)
        error = path_error(denoise, path, x, sampler)
        if error <= tolerance:
            low = max(low, local)
            best, fewest = (path, path.steps) if path.steps < fewest else (best, fewest)
            if error > 0.6 * tolerance:
                break
        else:
            high = min(high, local)
        guess = local * min(8.0, max(0.02, (0.8 * tolerance / max(error, 1e-300)) ** ((sampler.order + 1) / sampler.order)))
        local = guess if low < guess < high else math.sqrt(low * high) if low > 0 else high / 4
    if best is None:
        raise UsageError("bad_tolerance", f"tolerance {tolerance:g} was not met by {sampler} with {path.steps} steps, the error is {error:.2g}; "
                                          "give a larger one, or a sampler of higher order")
    return best


def path_error(denoise: Denoise, path: Path, x: Tensor, sampler: Sampler) -> float:
    """The error of `sampler` on `path` from x (N, ...): its difference from the path whose every step is cut in four, / (1 - 4^-order)."""
    lam = _lam(_halved(_halved(_angles(path))))
    fine = Path.of(path.gauge, torch.cat([path.levels.lam[:1], lam[1:]]))
    return _distance(_solve(denoise, path, x, sampler), _solve(denoise, fine, x, sampler)) / (1 - 4.0**-sampler.order)


def _march(denoise: Denoise, schedule: Schedule, x: Tensor, tolerance: float, sampler: Sampler) -> Path:
    """A path whose steps each err by at most `tolerance`. x goes on by the better of the two results."""
    terminal = schedule(1.0)
    angle = start = float(torch.atan2(terminal.sigma, terminal.alpha))
    length, lams = start * FIRST, [float(terminal.lam)]
    while angle > 0:
        if len(lams) > MOST_STEPS:
            raise UsageError("bad_tolerance", f"{sampler} needs more than {MOST_STEPS} steps; give a larger tolerance")
        stop = 0.0 if length > 0.98 * angle else angle - length
        middle, end = _lam(torch.tensor([(angle + stop) / 2, stop], dtype=torch.float64)).tolist()
        one, two = (Path.of(schedule.gauge, torch.tensor(lam, dtype=torch.float64)) for lam in ([lams[-1], end], [lams[-1], middle, end]))
        long, short = _solve(denoise, one, x, sampler), _solve(denoise, two, x, sampler)
        error = _distance(long, short) / _size(one)
        change = 0.9 * (tolerance / max(error, 1e-300)) ** (1 / (sampler.order + 1))
        if error <= tolerance or length < 1e-6 * start:
            x, angle = short, stop
            lams.append(end)
            length *= min(3.0, max(0.5, change))
        else:
            length = min(length, angle) * min(0.8, max(0.1, change))
    return Path.of(schedule.gauge, torch.tensor(lams, dtype=torch.float64))


def _size(path: Path) -> float:
    """|(alpha, sigma)| at the end: dividing by it makes x comparable between gauges."""
    return math.hypot(*path.points[-1])


def _angles(path: Path) -> Tensor:
    return torch.atan2(path.levels.sigma, path.levels.alpha)


def _halved(angles: Tensor) -> Tensor:
    """(n + 1,) -> (2 n + 1,) with the middles."""
    middles = torch.tensor([(a + b) / 2 for a, b in pairwise(angles.tolist())], dtype=torch.float64)
    return torch.cat([torch.stack([angles[:-1], middles], dim=1).flatten(), angles[-1:]])


def _lam(angles: Tensor) -> Tensor:
    """lam (...,) of angles in [0, pi / 2]; +inf at 0."""
    return -torch.log(torch.tan(angles))


def _solve(denoise: Denoise, path: Path, x: Tensor, sampler: Sampler) -> Tensor:
    plan = sampler.plan(path)
    return torch.stack([result.x for result in run(denoise, [Program(plan, 0, i, sample) for i, sample in enumerate(x)])])


def _distance(a: Tensor, b: Tensor) -> float:
    """Root mean square over a sample's numbers, mean over samples."""
    return float((a - b).flatten(1).square().mean(1).sqrt().mean())
