"""Levels, and the coordinates by which networks are told of them."""

from __future__ import annotations

import math

import pytest
import torch

from inkwash.core.coordinate import Angle, Coordinate, QuarterLogSigma, TimeIndex
from inkwash.core.level import Gauge, Level, broadcast, rescale
from inkwash.core.schedule import Linear, Shifted, Straight

LAM = torch.linspace(-9, 9, 37, dtype=torch.float64)


@pytest.mark.parametrize("gauge", list(Gauge), ids=lambda gauge: gauge.value)
def test_lam_and_snr_do_not_depend_on_the_gauge(gauge: Gauge) -> None:
    level = gauge.split(LAM)
    torch.testing.assert_close(level.lam, LAM, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(level.snr, (2 * LAM).exp(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gauge", list(Gauge), ids=lambda gauge: gauge.value)
def test_small_numbers_keep_their_digits(gauge: Gauge) -> None:
    """1 - alpha and 1 - sigma would have none left at lam = +-40; the small one of the two is exact to rounding."""
    level = gauge.split(torch.tensor([40.0, -40.0], dtype=torch.float64))
    torch.testing.assert_close(level.lam, torch.tensor([40.0, -40.0], dtype=torch.float64), rtol=1e-13, atol=0)


def test_pure_noise_moves_between_gauges_that_reach_it() -> None:
    x = torch.tensor([0.3, -2.0], dtype=torch.float64)
    for gauge, other in ((Gauge.VP, Gauge.FLOW), (Gauge.FLOW, Gauge.VP)):
        moved, level = rescale(x, gauge.split(torch.tensor([-math.inf] * 2, dtype=torch.float64)), other)
        assert (moved.tolist(), level.alpha.tolist(), level.sigma.tolist()) == (x.tolist(), [0.0, 0.0], [1.0, 1.0])


def test_eps_is_the_inverse_of_mix() -> None:
    level = Gauge.VP.split(LAM)
    x0, eps = torch.randn(2, 37, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(level.eps(level.mix(x0, eps), x0), eps, rtol=1e-10, atol=1e-10)


def test_levels_take_the_shape_and_type_of_what_they_scale() -> None:
    level = Gauge.FLOW.split(LAM).take(torch.tensor([3, 3, 5]))
    like = level.like(torch.zeros(3, 4, 5, 6))
    assert like.alpha.shape == (3, 1, 1, 1)
    assert like.alpha.dtype == torch.float32
    assert like.sigma.flatten().tolist() == level.sigma.float().tolist()
    assert broadcast(torch.tensor(2.0, dtype=torch.float64), torch.zeros(3, 4)).shape == ()


def test_angle_is_bounded_and_reaches_both_ends() -> None:
    ends = Level(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0]))
    assert Angle()(ends).tolist() == pytest.approx([0.0, 1000.0, 500.0], rel=1e-6)
    assert bool((Angle()(Gauge.VP.split(LAM)).diff() < 0).all())


def test_quarter_log_sigma_is_c_noise() -> None:
    sigma = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    got = QuarterLogSigma()(Level(torch.ones(3, dtype=torch.float64), sigma))
    assert got.tolist() == pytest.approx([math.log(s) / 4 for s in sigma.tolist()], abs=1e-12)


def test_time_index_counts_like_a_checkpoint() -> None:
    k = torch.tensor([1, 2, 500, 1000], dtype=torch.float64)
    assert TimeIndex(Linear())(Linear()(k / 1000)).tolist() == pytest.approx([0, 1, 499, 999], abs=1e-6)
    flow = TimeIndex(Straight(), 1000.0, 0.0)(Shifted(Straight(), 3.0)(torch.tensor([0.5], dtype=torch.float64)))
    assert float(flow) == pytest.approx(750.0, rel=1e-9)


@pytest.mark.parametrize("coordinate", [Angle(), QuarterLogSigma(), TimeIndex(Linear())], ids=repr)
def test_coordinates_do_not_depend_on_the_gauge(coordinate: Coordinate) -> None:
    lam = torch.linspace(-4, 4, 17, dtype=torch.float64)
    expected = coordinate(Gauge.VP.split(lam))
    for gauge in Gauge:
        torch.testing.assert_close(coordinate(gauge.split(lam)), expected, rtol=1e-9, atol=1e-9)
