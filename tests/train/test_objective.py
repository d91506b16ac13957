"""Levels and weightings against exact values."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from inkwash.core.level import Gauge
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.train.levels import DiscreteLevels, Levels, LogitNormalLevels, StratifiedLevels, UniformLevels
from inkwash.train.weighting import EDMWeight, MinSNRWeight, P2Weight, SigmoidWeight, SimpleWeight, Weighting
from inkwash.value import parse, registry

PREDICTIONS = [Eps(), X0(), V(), Score(), Velocity(), EDM()]


def test_f3_discrete_levels_are_uniform_and_reach_both_ends() -> None:
    u = torch.rand(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = (DiscreteLevels(1000).times(u, torch.arange(len(u)), len(u)) * 1000).round().long()
    assert (int(k.min()), int(k.max())) == (1, 1000)
    assert stats.chisquare(torch.bincount(k)[1:].numpy()).pvalue > 1e-3
    ends = DiscreteLevels(1000).times(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), torch.arange(2), 2)
    assert ends.tolist() == [0.001, 1.0]


@pytest.mark.parametrize("levels", [UniformLevels(), StratifiedLevels(), LogitNormalLevels(0.5, 0.8)], ids=repr)
def test_levels_follow_their_distribution(levels: Levels) -> None:
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = levels.times(u, torch.arange(len(u)), len(u))
    assert bool(((t > 0) & (t <= 1)).all())
    ends = levels.times(torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), torch.tensor([0, 0]), 1)
    assert 0 < float(ends.min()) <= float(ends.max()) <= 1                                 # what draws give at their ends
    exact = stats.norm(0.5, 0.8).cdf if isinstance(levels, LogitNormalLevels) else stats.uniform.cdf
    assert stats.kstest(torch.logit(t).numpy() if isinstance(levels, LogitNormalLevels) else t.numpy(), exact).pvalue > 1e-3


def test_uniform_levels_begin_where_they_are_told() -> None:
    u = torch.tensor([0.0, 0.25, 1 - 2**-53], dtype=torch.float64)
    assert UniformLevels(0.4).times(u, torch.arange(3), 3).tolist() == pytest.approx([1.0, 0.85, 0.4])


@pytest.mark.parametrize("levels", [StratifiedLevels(), LogitNormalLevels(0.5, 0.8)], ids=repr)
def test_stratified_levels_put_one_sample_into_each_part(levels: Levels) -> None:
    u = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = levels.times(u, torch.arange(64), 64)
    share = t if isinstance(levels, StratifiedLevels) else torch.from_numpy(stats.norm(0.5, 0.8).cdf(torch.logit(t).numpy()))
    assert sorted((share * 64).ceil().long().tolist()) == list(range(1, 65))


@pytest.mark.parametrize("name", sorted(registry(Levels)))
def test_levels_are_values(name: str) -> None:
    value = registry(Levels)[name]()
    assert parse(repr(value), Levels) == value


@pytest.mark.parametrize("weighting", [MinSNRWeight(5), P2Weight(), EDMWeight(0.5), SigmoidWeight(1.0)], ids=repr)
@pytest.mark.parametrize("gauge", list(Gauge))
def test_f12_a_weighted_loss_is_the_same_for_every_prediction(weighting: Weighting, gauge: Gauge) -> None:
    torch.manual_seed(0)
    level = gauge.split(torch.linspace(-4, 4, 9, dtype=torch.float64))
    x0, eps, error = torch.randn(3, 9, 5, dtype=torch.float64)
    x = level.mix(x0, eps)
    estimate = x0 + error
    losses = []
    for prediction in PREDICTIONS:
        y = prediction.target(level, estimate, level.eps(x, estimate))
        target = prediction.target(level, x0, eps)
        losses.append(weighting(level, prediction) * (y - target).square().mean(1))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize(("weighting", "on_eps"), [
    (MinSNRWeight(5), lambda snr: (5 / snr).clamp(max=1)), (P2Weight(1.0, 1.0), lambda snr: 1 / (1 + snr)),
    (SigmoidWeight(2.0), lambda snr: torch.sigmoid(2 - snr.log())), (SimpleWeight(), torch.ones_like),
    (EDMWeight(1.0), lambda snr: (snr + 1) / snr)], ids=lambda value: repr(value) if isinstance(value, Weighting) else "")
def test_weights_on_the_error_of_eps_are_those_of_the_papers(weighting: Weighting, on_eps) -> None:
    level = Gauge.VP.split(torch.linspace(-5, 5, 11, dtype=torch.float64))
    torch.testing.assert_close(weighting(level, Eps()), on_eps(level.snr))


def test_edm_weight_makes_the_edm_loss_of_weight_one() -> None:
    level = Gauge.VE.split(torch.linspace(-5, 5, 11, dtype=torch.float64))
    torch.testing.assert_close(EDMWeight(0.5)(level, EDM(0.5)), torch.ones(11, dtype=torch.float64))


def test_predictions_are_all_covered() -> None:
    assert {type(prediction).__name__ for prediction in PREDICTIONS} == set(registry(Prediction))
