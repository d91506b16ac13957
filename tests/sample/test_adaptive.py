"""Adaptive paths: they keep their tolerance on data whose flow is known, and they need fewer evaluations than even steps."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Cosine, Exponential, Linear, Schedule, Straight
from inkwash.core.spacing import Path, Uniform
from inkwash.errors import UsageError
from inkwash.sample import Program, Sampler, run
from inkwash.sample.adaptive import adaptive_path, path_error
from inkwash.sample.multistep import DPMSolverPP
from inkwash.sample.onestep import DDIM
from inkwash.sample.singlestep import RK4, Heun

F64 = torch.float64
NARROW = gaussian(torch.tensor([0.5], dtype=F64), torch.tensor([0.01], dtype=F64))
MODES = Mixture(torch.tensor([0.3, 0.5, 0.2], dtype=F64), torch.tensor([[-1.2], [0.4], [1.5]], dtype=F64),
                torch.tensor([[0.04], [0.09], [0.01]], dtype=F64))


def denoiser(data: Mixture):  # type: ignore[no-untyped-def]
    return lambda x, level, index: data.denoise(x, level)


def starts(schedule: Schedule, data: Mixture, count: int, seed: int) -> Tensor:
    """Noisy data at the terminal level, evenly in probability but for a random shift."""
    level = schedule(1.0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, generator=generator, dtype=F64)
    return level.mix(data.sample(count, generator), noise)


def error(data: Mixture, path: Path, x: Tensor, sampler: Sampler) -> float:
    """Against the exact flow, (N, 1)."""
    plan = sampler.plan(path)
    got = torch.stack([result.x for result in run(denoiser(data), [Program(plan, 0, i, row) for i, row in enumerate(x)])])
    clean = Level(plan.end.alpha, torch.tensor(1e-9, dtype=F64))
    return float((got - data.flow(x, plan.start, clean)).abs().mean())


@pytest.mark.parametrize("schedule", [Cosine(), Straight(), Exponential(), Linear()], ids=repr)
@pytest.mark.parametrize("data", [NARROW, MODES], ids=["gaussian", "mixture"])
def test_r2_the_tolerance_is_kept_on_other_samples(data: Mixture, schedule: Schedule) -> None:
    tolerance = 0.01
    path = adaptive_path(denoiser(data), schedule, starts(schedule, data, 24, 1), tolerance)
    assert path.levels.sigma[-1] == 0
    assert path.levels.lam[0] == schedule(1.0).lam
    assert bool((path.levels.lam[1:] > path.levels.lam[:-1]).all())
    assert error(data, path, starts(schedule, data, 24, 1), Heun("flow")) < 1.1 * tolerance
    assert error(data, path, starts(schedule, data, 200, 2), Heun("flow")) < 1.6 * tolerance


CASES = [(sampler, Linear(), data) for sampler in (DDIM(), DPMSolverPP(2), RK4()) for data in (NARROW, MODES)]
CASES += [(Heun("flow"), schedule, data) for schedule in (Linear(), Cosine(), Exponential(), Straight()) for data in (NARROW, MODES)]


@pytest.mark.parametrize(("sampler", "schedule", "data"), CASES)
def test_r2_even_steps_of_as_many_evaluations_err_more(sampler: Sampler, schedule: Schedule, data: Mixture) -> None:
    x = starts(schedule, data, 24, 1)
    path = adaptive_path(denoiser(data), schedule, x, 0.03 if sampler == DDIM() else 0.005, sampler)
    even = Uniform().levels(schedule, path.steps)
    assert sampler.plan(even).rows == sampler.plan(path).rows
    assert error(data, even, x, sampler) > 1.3 * error(data, path, x, sampler)


def test_a_smaller_tolerance_takes_more_steps_at_the_order_of_the_sampler() -> None:
    schedule = Cosine()
    x = starts(schedule, MODES, 16, 3)
    few, many = (adaptive_path(denoiser(MODES), schedule, x, tolerance).steps for tolerance in (0.004, 0.004 / 16))
    assert math.log2(many / few) == pytest.approx(2, abs=0.7)  # at order 2, 16 times less error is 4 times the steps


@pytest.mark.parametrize("sampler", [DDIM(), Heun("flow")], ids=repr)
def test_the_estimate_is_the_error(sampler: Sampler) -> None:
    """Of a quarter of the steps the error is 4^order times less; what it would hide otherwise is a third of the error at order 1."""
    schedule = Straight()
    x, path = starts(schedule, NARROW, 24, 4), Uniform().levels(Straight(), 64)
    assert path_error(denoiser(NARROW), path, x, sampler) == pytest.approx(error(NARROW, path, x, sampler), rel=0.02)


class Turned:
    """Linear()'s lam in another gauge: what `adaptive_path` asks of a schedule."""

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge

    def __call__(self, t: float) -> Level:
        return self.gauge.split(Linear().lam(torch.tensor(t, dtype=F64)))


def test_the_gauge_does_not_matter() -> None:
    paths = []
    for gauge in Gauge:
        schedule: Any = Turned(gauge)
        x = starts(Linear(), NARROW, 4, 1) * torch.hypot(*schedule(1.0))
        paths.append(adaptive_path(denoiser(NARROW), schedule, x, 0.002).levels.lam)
    for other in paths[1:]:
        torch.testing.assert_close(other, paths[0], rtol=1e-6, atol=1e-6)


def test_the_search_stays_between_what_was_too_loose_and_what_was_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that says nothing of how far off the local tolerance is: the guess from it would leave the bracket, halves of it in powers do not."""
    tried: list[float] = []

    def march(denoise: object, schedule: object, x: object, tolerance: float, sampler: object) -> SimpleNamespace:
        tried.append(tolerance)
        return SimpleNamespace(steps=30 + len(tried), tolerance=tolerance)

    monkeypatch.setattr("inkwash.sample.adaptive._march", march)
    monkeypatch.setattr("inkwash.sample.adaptive.path_error", lambda denoise, path, x, sampler: 1e-3 if path.tolerance < 0.012 else 1.0)
    found: Any = adaptive_path(denoiser(MODES), Cosine(), torch.zeros(2, 1, dtype=F64), 0.1)
    strict, loose = [one for one in tried if one < 0.012], [one for one in tried if one >= 0.012]
    assert len(tried) == 10
    assert max(strict) == pytest.approx(0.012, rel=0.1)
    assert found.tolerance == strict[0]                    # of those that err little enough, the one of the fewest steps: here the first
    assert all(max([0.0, *(b for b in strict if b in tried[:i])]) < one < min([math.inf, *(b for b in loose if b in tried[:i])])
               for i, one in enumerate(tried))


def test_wrong_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2, 1, dtype=F64)
    with pytest.raises(UsageError, match="draws noise"):
        adaptive_path(denoiser(MODES), Cosine(), x, 0.1, DDIM(1.0))
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="tolerance"):
            adaptive_path(denoiser(MODES), Cosine(), x, tolerance)
    monkeypatch.setattr("inkwash.sample.adaptive.MOST_STEPS", 50)
    with pytest.raises(UsageError, match="50 steps"):
        adaptive_path(denoiser(MODES), Cosine(), x + 0.3, 1e-9, DDIM())
