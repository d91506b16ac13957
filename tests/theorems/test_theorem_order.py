"""Every sampler reaches the order that it claims, measured on data whose solution is exact."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad
from scipy.special import gammainc
from theorem_tools import ODES, SAMPLERS, SDES, finding
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Exponential
from inkwash.core.spacing import Karras, Path
from inkwash.sample import Sampler
from inkwash.sample.multistep import DEIS, AdamsBashforth, DPMSolverPP, integral_weights
from inkwash.sample.onestep import DDIM, DDPM, Consistency, EulerMaruyama
from inkwash.sample.unipc import UniPC
from inkwash.verify.oracle import DATA, F64, even, moments, slope, solve, trace

MORE: list[Sampler] = [DEIS(1), DEIS(2), DEIS(4), AdamsBashforth(1), AdamsBashforth(3), AdamsBashforth(3, "flow"), DPMSolverPP(1), UniPC(1),
                       DDIM(0.5), EulerMaruyama(0.5), DPMSolverPP(2, 0.5), DPMSolverPP(3, 0.5)]


STATED = [sampler for sampler in [*ODES, *SDES, *MORE] if sampler.order]


@pytest.mark.parametrize("sampler", STATED, ids=repr)
def test_s11_order(sampler: Sampler) -> None:
    """Of the trajectory on a Gaussian, or of mean and variance where noise is drawn."""
    assert finding("order", sampler, STATED).passed, finding("order", sampler, STATED).line()


def test_orders_are_claimed_by_all_but_three() -> None:
    assert {repr(s) for s in SAMPLERS if s.order == 0} == {"Consistency()", "PredictorCorrector()"}


def test_the_mean_alone_is_no_sampler() -> None:
    """s2: without its noise term the ancestral chain loses variance, however many steps it makes."""
    for steps in (50, 1000):
        plan = DDPM("none").plan(even(-5, 5, steps))
        assert plan.draws == 0
        assert moments(plan, 0.5, 0.25)[-1][1] < 0.1 * 0.25


def test_consistency_sampling_keeps_marginals_of_a_consistency_function() -> None:
    plan = Consistency().plan(even(-4, 2, 5))
    mean, deviation = 0.5, 0.5
    start = torch.tensor([plan.alpha[0] * mean, math.sqrt(plan.alpha[0] ** 2 * deviation**2 + plan.sigma[0] ** 2)], dtype=F64)

    def jump(x: Tensor, level: Level) -> Tensor:
        spread = torch.sqrt(level.alpha**2 * deviation**2 + level.sigma**2)
        out = x * deviation / spread
        out[0] += mean - deviation * level.alpha * mean / spread
        return out

    for row, x in enumerate(trace(plan, start, jump)):
        assert float(x[0]) == pytest.approx(float(plan.alpha[row]) * mean, abs=1e-12)
        assert float((x[1:] ** 2).sum()) == pytest.approx(float(plan.alpha[row] ** 2 * deviation**2 + plan.sigma[row] ** 2), abs=1e-12)


@pytest.mark.parametrize("nodes", [[0.0], [0.0, -0.4], [0.0, -0.4, -1.5, -2.0]], ids=len)
def test_integrals_of_slopes_are_as_exact_as_float64(nodes: list[float]) -> None:
    """int_0^h e^-u u^j du over steps as long as they come, for every power that the nodes can hold."""
    for h in (0.01, 1.0, 5.0):
        weights = integral_weights(nodes, 0.0, h, lambda u: math.exp(-u))
        for power in range(len(nodes)):
            exact = math.gamma(power + 1) * float(gammainc(power + 1, h))
            found = sum(weight * node**power for weight, node in zip(weights, nodes, strict=True))
            assert found == pytest.approx(exact, abs=1e-12 * sum(map(abs, weights)))


@pytest.mark.parametrize("sampler", ODES, ids=repr)
def test_orders_hold_on_a_mixture(sampler: Sampler) -> None:
    """Not only on Gaussians, where the denoiser is linear: quantiles of a mixture move along the exact flow."""
    assert finding("mixture", sampler, ODES).passed, finding("mixture", sampler, ODES).line()


def test_f8_one_ode_three_gauges_one_image() -> None:
    """Each gauge with a solver on its own clock converges to the same x0."""
    x = torch.tensor([[1.3, -0.6, 0.8]], dtype=F64)
    ends = []
    for gauge, text in ((Gauge.VP, DPMSolverPP(3)), (Gauge.VE, AdamsBashforth(4)), (Gauge.FLOW, DEIS(3))):
        path = even(-6, 5, 400, gauge)
        plan = text.plan(path)
        start = plan.start
        spread = torch.sqrt(start.alpha**2 * DATA.variances + start.sigma**2)
        ends.append(solve(plan, start.alpha * DATA.means + spread * x) / plan.end.alpha)
    assert torch.allclose(ends[0], ends[1], atol=1e-5, rtol=0)
    assert torch.allclose(ends[0], ends[2], atol=1e-5, rtol=0)


def test_order_survives_karras_spacing() -> None:
    errors = []
    for steps in (40, 80, 160):
        levels = Karras().levels(Exponential(0.05, 80.0), steps).levels
        path = Path(Gauge.VE, Level(levels.alpha[:-1], levels.sigma[:-1]))
        plan = DPMSolverPP(2).plan(path)
        x = torch.sqrt(DATA.variances + plan.start.sigma**2)
        errors.append(float((solve(plan, x) - DATA.flow(x, plan.start, plan.end)).norm()))
    assert slope([39, 79, 159], errors) > 1.9


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps_back", [1, 3])
def test_s11_as_many_slopes_are_exact_on_polynomials_of_their_degree(steps_back: int, eta: float) -> None:
    """x0(lam) = lam^j, whatever x is: x_q = sigma_q / sigma_p e^(-eta h) x_p + alpha_q int_0^h (1 + eta) e^(-(1 + eta) u) x0(lam_q - u) du.

    The first steps, which have fewer slopes, are held to their degree. Two slopes are left out: as published, they are not exact.
    """
    path = Path.of(Gauge.VP, torch.tensor([-3.0, -2.4, -1.2, -0.5, 0.9], dtype=F64))
    plan, lams = DPMSolverPP(steps_back, eta).plan(path), path.levels.lam.tolist()
    for degree in range(steps_back):
        x, slopes = 0.7, [0.0] * 4
        for row, (p, q) in enumerate(pairwise(path.points)):
            h = q.lam - p.lam
            slopes = [lams[row]**degree, *slopes[:3]]
            weights = plan.weights[row, 0].tolist()
            found = weights[0] * x + sum(w * slope for w, slope in zip(weights[2:6], slopes, strict=True))
            inner, _ = quad(lambda u, top=q.lam, j=degree: (1 + eta) * math.exp(-(1 + eta) * u) * (top - u)**j, 0, h, epsabs=1e-13)
            x = q.sigma / p.sigma * math.exp(-eta * h) * x + q.alpha * inner
            assert found == pytest.approx(x, abs=1e-11) or row < degree, (degree, row)
            x = found
