"""Predictions: every one solves its own target, converts into every other, and says where it cannot."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.core.schedule import DiscreteCosine, Linear, Straight, ZeroTerminal
from inkwash.errors import UsageError
from inkwash.value import registry

FOUR = (Eps(), X0(), V(), Score())
ALL = tuple(cls() for cls in registry(Prediction).values())
GAUGES = list(Gauge)


def sample(gauge: Gauge, low: float = -9.2, high: float = 9.2, count: int = 93) -> tuple[Level, Tensor, Tensor, Tensor]:
    """Levels with SNR from 1e-8 to 1e8, x0, eps and x (count, 11)."""
    level = gauge.split(torch.linspace(low, high, count, dtype=torch.float64))
    x0, eps = torch.randn(2, count, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return level, x0, eps, level.mix(x0, eps)


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.value)
@pytest.mark.parametrize("prediction", ALL, ids=repr)
def test_every_prediction_solves_its_own_target(prediction: Prediction, gauge: Gauge) -> None:
    level, x0, eps, x = sample(gauge)
    amplified = (1 + prediction.gain(level).abs())[:, None] * 1e-12  # rounding of x and y passes through the gain
    error = (prediction.solve(level, x, prediction.target(level, x0, eps)) - x0).abs()
    assert bool((error < amplified * (1 + level.sigma / level.alpha)[:, None]).all())


@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.value)
@pytest.mark.parametrize(("first", "second"), list(permutations(FOUR, 2)), ids=lambda value: type(value).__name__)
def test_t3_twelve_conversions_round_trip(first: Prediction, second: Prediction, gauge: Gauge) -> None:
    level, x0, eps, x = sample(gauge)
    y = first.target(level, x0, eps)
    there = convert(first, second, level, x, y)
    back = convert(second, first, level, x, there)
    scale = 1 + y.abs().amax(dim=1, keepdim=True)
    assert float(((back - y).abs() / scale).max()) < 1e-10


def convert(first: Prediction, second: Prediction, level: Level, x: Tensor, y: Tensor) -> Tensor:
    x0 = first.solve(level, x, y)
    return second.target(level, x0, level.eps(x, x0))


def test_t3_definitions() -> None:
    abar = torch.tensor([0.3], dtype=torch.float64)
    level = Level(abar.sqrt(), (1 - abar).sqrt())
    x0, eps = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-1.2], dtype=torch.float64)
    assert float(V().target(level, x0, eps)) == pytest.approx(math.sqrt(0.3) * -1.2 - math.sqrt(0.7) * 0.7, rel=1e-14)
    assert float(Score().target(level, x0, eps)) == pytest.approx(1.2 / math.sqrt(0.7), rel=1e-14)


@pytest.mark.parametrize("prediction", [V(), EDM(), EDM(0.5)], ids=repr)
def test_t3_the_targets_of_v_and_edm_are_the_same_numbers_in_every_gauge(prediction: Prediction) -> None:
    _, x0, eps, _ = sample(Gauge.VP)
    first, *others = (prediction.target(sample(gauge)[0], x0, eps) for gauge in GAUGES)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)


def test_t3_tweedie() -> None:
    """For data N(m, s^2) the score of p(x) gives E[x0 | x] by conditioning of Gaussians."""
    m, s = 0.4, 0.6
    level = Gauge.VP.split(torch.linspace(-4, 4, 9, dtype=torch.float64))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    var = level.alpha**2 * s**2 + level.sigma**2
    score = -(x - level.alpha * m) / var
    posterior = m + level.alpha * s**2 / var * (x - level.alpha * m)
    torch.testing.assert_close(Score().solve(level, x, score), posterior, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ALL, ids=repr)
def test_gain_is_the_finite_difference(prediction: Prediction) -> None:
    level, x0, eps, x = sample(Gauge.VP, -3, 3)
    y = prediction.target(level, x0, eps)
    step = 1e-3
    slope = (prediction.solve(level, x, y + step) - prediction.solve(level, x, y - step)) / (2 * step)
    torch.testing.assert_close(slope, prediction.gain(level)[:, None].expand_as(slope), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("prediction", [Eps(), Score()], ids=repr)
def test_t3_noise_without_signal_is_singular(prediction: Prediction) -> None:
    level = ZeroTerminal(Linear())(torch.tensor([1.0]))
    x = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(UsageError, match="singular"):
        prediction.solve(level, x, x)
    assert float(prediction.gain(level)) in (math.inf, -math.inf)


def test_t3_score_of_clean_data_is_singular() -> None:
    clean = Gauge.VP.split(torch.tensor([math.inf]))
    x = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(UsageError, match="singular"):
        Score().target(clean, x, x)


@pytest.mark.parametrize("prediction", [V(), Velocity(), EDM()], ids=repr)
@pytest.mark.parametrize("lam", [-math.inf, math.inf])
def test_t3_others_solve_at_both_ends(prediction: Prediction, lam: float) -> None:
    level = Gauge.FLOW.split(torch.tensor([lam]))
    x0, eps = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(prediction.solve(level, level.mix(x0, eps), prediction.target(level, x0, eps)), x0, rtol=1e-14, atol=1e-14)


def test_t4_error_amplification_of_eps() -> None:
    assert float(Eps().gain(Linear()(1.0)).abs()) == pytest.approx(157, abs=0.5)
    assert float(Eps().gain(DiscreteCosine()(1.0)).abs()) == pytest.approx(2.0e4, rel=0.02)


@pytest.mark.parametrize("schedule", [Linear(), DiscreteCosine()], ids=repr)
def test_t4_v_never_amplifies(schedule: Linear | DiscreteCosine) -> None:
    assert float(V().gain(schedule(torch.linspace(0, 1, 1001, dtype=torch.float64))).abs().max()) <= 1 + 1e-12


def test_t8_squared_errors() -> None:
    """A mean squared error is quoted per pair of vectors: 0.0006 and 0.025 are errors of 0.0245 and 0.158 per value in eps.

    The same errors are far apart in x0: the later one is multiplied by the gain of its level.
    """
    schedule = Linear()
    for k, mse in ((100, 0.0006), (700, 0.025)):
        level = schedule(torch.tensor([k / 1000], dtype=torch.float64))
        x0, eps = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        guess = eps + math.sqrt(mse) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        assert float((guess - eps).square().mean()) == pytest.approx(mse, rel=1e-12)
        error = (Eps().solve(level, level.mix(x0, eps), guess) - x0).square().mean()
        assert float(error) == pytest.approx(mse * float((1 - schedule.abar()[k - 1]) / schedule.abar()[k - 1]), rel=1e-9)


def test_r1_path_and_velocity() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    x0, x1 = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = Straight()(t)
    torch.testing.assert_close(level.mix(x0, x1), (1 - t)[:, None] * x0 + t[:, None] * x1, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(Velocity().target(level, x0, x1), x1 - x0, rtol=0, atol=0)
    step = 1e-6
    slope = (Straight()(t[1:-1] + step).mix(x0[1:-1], x1[1:-1]) - Straight()(t[1:-1] - step).mix(x0[1:-1], x1[1:-1])) / (2 * step)
    torch.testing.assert_close(slope, (x1 - x0)[1:-1], rtol=1e-7, atol=1e-8)  # dx/dt towards noise


def test_r1_twenty_samples_tell_a_field_of_the_wrong_sign() -> None:
    """The exact field of N(0, s^2) data beats its negative on twenty samples, each of them a pair (x0, noise)."""
    s = 0.5
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 20, 16, generator=generator, dtype=torch.float64)
    x0 = s * x0
    level = Straight()(torch.rand(20, generator=generator, dtype=torch.float64))
    x = level.mix(x0, eps)
    var = (level.alpha**2 * s**2 + level.sigma**2)[:, None]
    field = ((level.sigma - level.alpha * s**2)[:, None] / var) * x  # E[eps - x0 | x]
    target = Velocity().target(level, x0, eps)
    right, wrong = ((sign * field - target).square().mean() for sign in (1, -1))
    assert float(right) < 0.75 * float(wrong)


def test_r5_one_network_two_objectives_two_gauges_same_samples() -> None:
    """An eps network, the v network made from it, and both run on straight lines in place of VP, sample the same images."""
    var = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    lam = torch.cat([torch.linspace(-5, 5, 41, dtype=torch.float64), torch.tensor([math.inf])])
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def eps_net(level: Level, x: Tensor) -> Tensor:
        x0 = level.alpha * var / (level.alpha**2 * var + level.sigma**2) * x
        return level.eps(x, x0)

    def v_net(level: Level, x: Tensor) -> Tensor:
        return V().target(level, Eps().solve(level, x, eps_net(level, x)), eps_net(level, x))

    def run(gauge: Gauge, prediction: Prediction) -> Tensor:
        levels = [gauge.split(value) for value in lam]
        x = levels[0].sigma * noise + levels[0].alpha * 0.3
        for here, there in pairwise(levels):
            y = eps_net(here, x) if isinstance(prediction, Eps) else v_net(here, x)
            x0 = prediction.solve(here, x, y)
            x = there.mix(x0, here.eps(x, x0))
        return x

    expected = run(Gauge.VP, Eps())
    assert float(expected.std()) > 0.1
    for gauge in Gauge:
        for prediction in (Eps(), V()):
            torch.testing.assert_close(run(gauge, prediction), expected, rtol=1e-10, atol=1e-12)
