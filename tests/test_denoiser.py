"""The denoiser: one network, seen from every gauge and scale of data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.coordinate import QuarterLogSigma
from inkwash.core.level import Gauge, Level, rescale
from inkwash.core.prediction import EDM, X0, Eps, Prediction, V, Velocity
from inkwash.core.schedule import Linear, ZeroTerminal
from inkwash.denoiser import Denoiser

GAUGES = list(Gauge)


class Smooth(nn.Module):
    """Any smooth function of x and the noise coordinate."""

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        return torch.tanh(x * 1.3 + noise.to(x)[:, None] / 500 + cond["shift"].to(x)[:, None])


class Gaussian(nn.Module):
    """The exact prediction for N(0, var) data of unit scale, from the angle that it is told."""

    def __init__(self, prediction: Prediction, gauge: Gauge, var: float) -> None:
        super().__init__()
        self.prediction, self.gauge, self.var = prediction, gauge, var

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        angle = noise.double() * math.pi / 2000
        level = self.gauge.split(-torch.log(torch.tan(angle)))
        x0 = (level.alpha * self.var / (level.alpha**2 * self.var + level.sigma**2))[:, None] * x
        return self.prediction.target(level, x0, level.eps(x, x0))


def batch(gauge: Gauge, count: int = 25) -> tuple[Tensor, Level, Cond]:
    generator = torch.Generator().manual_seed(0)
    level = gauge.split(torch.linspace(-3, 3, count, dtype=torch.float64))
    x = level.mix(*torch.randn(2, count, 6, generator=generator, dtype=torch.float64))
    return x, level, Cond({"shift": torch.linspace(-1, 1, count, dtype=torch.float64)})


@pytest.mark.parametrize("own", GAUGES, ids=lambda gauge: gauge.value)
@pytest.mark.parametrize("outer", GAUGES, ids=lambda gauge: gauge.value)
def test_f8_the_gauge_of_x_does_not_matter(own: Gauge, outer: Gauge) -> None:
    x, level, cond = batch(Gauge.VP)
    denoiser = Denoiser(Smooth(), V(), own, sigma_data=0.7)
    moved, there = rescale(x, level, outer)
    torch.testing.assert_close(denoiser(moved, there, cond), denoiser(x, level, cond), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
@pytest.mark.parametrize("gauge", GAUGES, ids=lambda gauge: gauge.value)
@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), Velocity(), EDM()], ids=repr)
def test_r5_every_prediction_and_gauge_is_the_same_posterior_mean(prediction: Prediction, gauge: Gauge, sigma_data: float) -> None:
    var = 0.6
    x, level, cond = batch(Gauge.VE)
    got = Denoiser(Gaussian(prediction, gauge, var), prediction, gauge, sigma_data=sigma_data)(x, level, cond)
    wide = var * sigma_data**2
    exact = (level.alpha * wide / (level.alpha**2 * wide + level.sigma**2))[:, None] * x
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=2e-4)  # the network is told the level in float32


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_edm_preconditioning_is_the_published_one(sigma_data: float) -> None:
    """D = c_skip x + c_out F(c_in x, c_noise), Karras et al. 2022, table 1, except that c_noise = ln(sigma / sigma_data) / 4: the network is told
    the level of data in its own units.
    """
    x, level, cond = batch(Gauge.VE)
    s = level.sigma[:, None]
    c_skip, c_out = sigma_data**2 / (s**2 + sigma_data**2), s * sigma_data / (s**2 + sigma_data**2).sqrt()
    c_in, c_noise = 1 / (s**2 + sigma_data**2).sqrt(), (level.sigma / sigma_data).log() / 4
    network = Smooth()
    expected = c_skip * x + c_out * network(c_in * x, c_noise.float(), cond)
    got = Denoiser(network, EDM(), Gauge.VP, sigma_data=sigma_data, coordinate=QuarterLogSigma())(x, level, cond)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_it_is_finite_at_both_ends() -> None:
    denoiser = Denoiser(Smooth(), V())
    level = ZeroTerminal(Linear())(torch.tensor([0.0, 1.0]))
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    x0 = denoiser(x, level, Cond({"shift": torch.zeros(2)}))
    torch.testing.assert_close(x0[0], x[0])  # without noise the image is what it is
    network = torch.tanh(x[1] * 1.3 + 2)
    torch.testing.assert_close(x0[1], -network)  # pure noise: x0 = -v


def test_output_is_what_losses_compare() -> None:
    x, level, cond = batch(Gauge.VE)
    denoiser = Denoiser(Smooth(), V(), Gauge.VP, sigma_data=0.5)
    out = denoiser.output(x, level, cond)
    torch.testing.assert_close(out.level.alpha**2 + out.level.sigma**2, torch.ones(25, dtype=torch.float64))
    torch.testing.assert_close(V().solve(out.level, out.x, out.y) * 0.5, denoiser(x, level, cond))


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.inf, math.nan])
def test_impossible_scales_are_refused(sigma_data: float) -> None:
    with pytest.raises(ValueError, match="sigma_data"):
        Denoiser(Smooth(), V(), sigma_data=sigma_data)
