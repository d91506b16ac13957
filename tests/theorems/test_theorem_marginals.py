"""Posteriors by brute force, and distributions: what comes out is distributed as the data are."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from theorem_tools import ODES, SAMPLERS, finding
from torch import Tensor

from inkwash.core.analytic import gaussian
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Cosine, DiscreteCosine, Linear, Schedule
from inkwash.core.spacing import LogSNR, Path, Point, Trailing, Uniform
from inkwash.sample import Plan, Program, Sampler, begin, prior, run, start, tick
from inkwash.sample.corrector import PredictorCorrector, langevin
from inkwash.sample.multistep import DPMSolverPP
from inkwash.sample.onestep import DDIM, DDPM, EulerMaruyama
from inkwash.sample.singlestep import RK4
from inkwash.verify.chain import Chain
from inkwash.verify.oracle import DATA, F64, MODES, even, moments, path_of, slope, solve


@pytest.mark.parametrize("schedule", [Linear(), DiscreteCosine()], ids=repr)
@pytest.mark.parametrize("k", [1, 2, 10, 500, 999, 1000])
def test_t1_t2_posterior_is_bayes(schedule: Schedule, k: int) -> None:
    """mu~ = sqrt(abar') b / (1 - abar) x0 + sqrt(a) (1 - abar') / (1 - abar) x_t; b~ = (1 - abar') / (1 - abar) b; b~ = 0 at the last step."""
    level = schedule(torch.tensor([k / 1000, (k - 1) / 1000], dtype=F64))
    stage = next(DDPM().stages(Path(Gauge.VP, level)))
    of_x, of_x0, variance = Chain.of(schedule.betas()).posterior(k)  # type: ignore[attr-defined]
    assert (stage.next.x, stage.next.h[0]) == pytest.approx((of_x, of_x0), rel=1e-9, abs=1e-11)
    assert stage.next.z**2 == pytest.approx(variance, rel=1e-9, abs=1e-12)
    assert (stage.next.z == 0) == (k == 1)
    if k > 1:
        abar, before, beta = float(schedule.abar()[k - 1]), float(schedule.abar()[k - 2]), float(schedule.betas()[k - 1])  # type: ignore[attr-defined]
        assert stage.next.h[0] == pytest.approx(math.sqrt(before) * beta / (1 - abar), rel=1e-9)
        assert stage.next.x == pytest.approx(math.sqrt(1 - beta) * (1 - before) / (1 - abar), rel=1e-9)
        assert stage.next.z**2 == pytest.approx((1 - before) / (1 - abar) * beta, rel=1e-9)
        assert next(DDPM("forward").stages(Path(Gauge.VP, level))).next.z ** 2 == pytest.approx(beta, rel=1e-9)


def test_s9_a_step_needs_the_level_of_the_step_that_was_kept() -> None:
    """On 10 of 1000 levels the DDIM deviation is sqrt((1-ab')/(1-ab)) sqrt(1-ab/ab') with ab' of the next KEPT level, not of t - 1."""
    schedule = Linear()
    plan = DDIM(1.0).plan(path_of(schedule, Trailing(), 10))
    abar = schedule.abar()[[999, 899]]
    kept = math.sqrt((1 - abar[1]) / (1 - abar[0]) * (1 - abar[0] / abar[1]))
    assert float(plan.weights[0, 0, -1]) == pytest.approx(kept, rel=1e-10)
    neighbour = schedule.abar()[998]
    assert abs(math.sqrt((1 - neighbour) / (1 - abar[0]) * (1 - abar[0] / neighbour)) - kept) > 0.5


def check_distribution(x: Tensor, level: Level, p_least: float = 1e-3) -> None:
    """x (B, 1) against fresh exact noisy data of MODES: Kolmogorov and Smirnov, and mean and variance within 4 standard errors."""
    generator = torch.Generator().manual_seed(77)
    exact = level.alpha * MODES.sample(len(x), generator) + level.sigma * torch.randn(len(x), 1, generator=generator, dtype=F64)
    assert stats.ks_2samp(x[:, 0].numpy(), exact[:, 0].numpy()).pvalue > p_least
    mean, variance = level.alpha * MODES.mean(), level.alpha**2 * MODES.variance() + level.sigma**2
    assert abs(float(x.mean() - mean)) < 4 * math.sqrt(float(variance) / len(x))
    centred = (x - mean) ** 2
    assert abs(float(centred.mean() - variance)) < 4 * float(centred.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_s1_ddpm_with_the_exact_score_samples_the_data(variance: str) -> None:
    plan = DDPM(variance).plan(path_of(Linear(), Trailing(), 1000))
    x = solve(plan, prior(plan, (3000, 1), 1, 0).double(), MODES, seed=1)
    check_distribution(x, plan.end)


def test_s1_the_mean_only_chain_does_not() -> None:
    """Without fresh noise nothing carries a sample away from the middle: all end in the one mode that is nearest to it, and narrower than that."""
    plan = DDPM("none").plan(path_of(Linear(), Trailing(), 300))
    x = solve(plan, prior(plan, (2000, 1), 1, 0).double(), MODES)
    assert set((x - MODES.means.flatten()).abs().argmin(1).tolist()) == {1}
    assert float(x.var()) < 0.3 * float(MODES.variances[1])


@pytest.mark.parametrize("claim", ["moments", "marginals"])
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s.order], ids=repr)
def test_samplers_keep_distributions(sampler: Sampler, claim: str) -> None:
    """Exact moments of a clean Gaussian, and samples of three modes."""
    assert finding(claim, sampler).passed, finding(claim, sampler).line()


def test_s13_sde_and_ode_share_their_marginals_at_five_times() -> None:
    path = even(-4, 2, 300)
    clouds = {}
    for eta in (0.0, 1.0):
        plan = EulerMaruyama(eta).plan(path)
        program = Program(plan, 4, 0, (plan.start.alpha * MODES.sample(3000, torch.Generator().manual_seed(5 + int(eta)))
                                       + plan.start.sigma * torch.randn(3000, 1, generator=torch.Generator().manual_seed(9 + int(eta)), dtype=F64)))
        state = begin([program])
        for row in range(plan.rows):
            state, _, _ = tick(lambda x, level, index: MODES.denoise(x[0], level)[None], [program], state)
            if (row + 1) % 60 == 0:
                clouds[row + 1, eta] = state.x[0]
                check_distribution(state.x[0], Level(plan.alpha[row + 1], plan.sigma[row + 1]))
    times = sorted({row for row, _ in clouds})
    assert len(times) == 5
    for row in times:
        assert stats.ks_2samp(clouds[row, 0.0][:, 0].numpy(), clouds[row, 1.0][:, 0].numpy()).pvalue > 1e-3


def test_s12_langevin_is_stationary_within_one_percent_as_the_step_vanishes() -> None:
    """And its bias is the known v / (1 - eta / (4 v)), of first order in eta."""
    point, variance = Point(1.0, 0.5), 0.75
    spread = variance + point.sigma**2                     # of x at that level
    excess = []
    for size in (0.4, 0.2, 0.1, 0.05):
        rows = int(40 / size)
        plan = Plan.compile(Gauge.VE, [langevin(point, size)] * rows, point)
        stationary = moments(plan, 0.0, variance)[-1][1]
        eta = size * point.sigma**2
        assert stationary == pytest.approx(spread / (1 - eta / (4 * spread)), rel=1e-6)
        excess.append(stationary / spread - 1)
    assert excess[-1] < 0.01
    assert slope([1, 2, 4, 8], excess) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_predictor_is_a_ddim_step_of_its_eta(eta: float) -> None:
    path = even(-2, 2, 3)
    assert torch.equal(PredictorCorrector(eta).plan(path).weights[::2], DDIM(eta).plan(path).weights)


def psnr(a: Tensor, b: Tensor) -> float:
    """dB for images in [-1, 1]."""
    return 10 * math.log10(4 / float(((a - b) ** 2).mean()))


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolverPP(2), RK4()], ids=repr)
def test_s14_encode_then_decode(sampler: Sampler) -> None:
    """The ODE run upwards from an image and down again: over 40 dB at 200 steps, on data of three modes; first order gives 30."""
    image = MODES.sample(50, torch.Generator().manual_seed(3))
    down = path_of(Cosine(), LogSNR(), 200)
    up = sampler.plan(down.up())
    code = solve(up, up.start.alpha * image, MODES)
    assert float(torch.corrcoef(torch.cat([code, image], 1).T)[0, 1].abs()) < 0.999, "the code should not be the image"
    assert psnr(solve(sampler.plan(down), code, MODES), image) > (40 if sampler.order > 1 else 30)


@pytest.mark.parametrize("sampler", ODES, ids=repr)
def test_s14_order_of_the_round_trip(sampler: Sampler) -> None:
    """Between two noisy levels, so that only the solver errs: the return misses the start by its order in the number of steps."""
    assert finding("inversion", sampler, ODES).passed, finding("inversion", sampler, ODES).line()


@pytest.mark.parametrize("sampler", [DDIM(1.0), DPMSolverPP(2), RK4(eta=1.0)], ids=repr)
def test_s14_the_way_up_draws_nothing_whatever_eta(sampler: Sampler) -> None:
    """Noise is drawn for what a step takes away, and a step upwards takes nothing; the last one, to pure noise, among them."""
    plan = sampler.plan(path_of(Cosine(), Uniform(), 6).up())
    assert float(plan.end.alpha) == 0
    assert plan.draws == 0


def test_s14_the_code_is_the_exact_flow() -> None:
    path = even(-4, 4, 300)
    up = RK4().plan(path.up())
    image = DATA.sample(5, torch.Generator().manual_seed(1))
    x = up.start.alpha * image
    assert torch.allclose(solve(up, x), DATA.flow(x, up.start, up.end), atol=1e-7)


def test_img2img_starts_from_the_image_at_the_level_that_strength_says() -> None:
    whole = path_of(Cosine(), Uniform(), 10)
    plan = DDIM().plan(whole.cut(0.3))
    assert plan.rows == 3
    image = torch.tensor([0.2, -0.4], dtype=F64)
    for number in (0, 3):                                  # of the pictures of one seed, each with noise of its own
        a, b = start(plan, image, 7, number), prior(plan, (2,), 7, number).double()
        assert torch.allclose(a, plan.start.alpha * image + b)
        exact = run(lambda x, level, index: gaussian(image, torch.zeros(2, dtype=F64)).denoise(x, level), [Program(plan, 7, number, a)])
        assert torch.allclose(exact[0].clean.x, image, atol=1e-12)
