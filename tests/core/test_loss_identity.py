"""F12: a weighting gives the same loss whichever prediction the network makes, and has its published form on each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.train.weighting import EDMWeight, MinSNRWeight, P2Weight, SigmoidWeight, SimpleWeight, Weighting
from inkwash.value import registry

LEVEL = Gauge.VP.split(torch.linspace(-4, 4, 33, dtype=torch.float64))
SNR = LEVEL.snr


def losses(weighting: Weighting, prediction: Prediction, level: Level) -> Tensor:
    """w |y - y*|^2 of a network whose x0 is off by the same amount for every prediction (33,)."""
    generator = torch.Generator().manual_seed(0)
    x0, eps, error = torch.randn(3, 33, 16, generator=generator, dtype=torch.float64)
    x = level.mix(x0, eps)
    guess = x0 + error
    y = prediction.target(level, guess, level.eps(x, guess))
    return weighting(level, prediction) * (y - prediction.target(level, x0, eps)).square().mean(1)


@pytest.mark.parametrize("weighting", [cls() for name, cls in registry(Weighting).items() if name != "SimpleWeight"], ids=repr)
@pytest.mark.parametrize("prediction", [X0(), V(), Score(), Velocity(), EDM(), EDM(0.5)], ids=repr)
def test_f12_weighted_loss_is_the_reparameterised_loss(weighting: Weighting, prediction: Prediction) -> None:
    torch.testing.assert_close(losses(weighting, prediction, LEVEL), losses(weighting, Eps(), LEVEL), rtol=1e-9, atol=0)


def test_f12_the_simple_loss_is_another_one_for_each_prediction() -> None:
    ratio = losses(SimpleWeight(), X0(), LEVEL) / losses(SimpleWeight(), Eps(), LEVEL)
    torch.testing.assert_close(ratio, 1 / SNR, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("weighting", "on_eps"), [
    (MinSNRWeight(), (5 / SNR).clamp(max=1)),
    (P2Weight(), 1 / (1 + SNR)),
    (P2Weight(0.5, 2.0), (2 + SNR) ** -0.5),
    (SigmoidWeight(-1.0), 1 / (1 + SNR * 2.718281828459045)),
    (EDMWeight(), (SNR + 1) / SNR),
], ids=repr)
def test_f12_published_forms_on_eps(weighting: Weighting, on_eps: Tensor) -> None:
    torch.testing.assert_close(weighting(LEVEL, Eps()), on_eps, rtol=1e-12, atol=0)


def test_f12_min_snr_on_v() -> None:
    torch.testing.assert_close(MinSNRWeight()(LEVEL, V()), SNR.clamp(max=5) / (SNR + 1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_f12_edm_weighs_its_own_target_equally(sigma_data: float) -> None:
    """1 / c_out^2 on x0 is 1 on the network's own target."""
    weight = EDMWeight(sigma_data)(LEVEL, EDM(sigma_data))
    torch.testing.assert_close(weight, torch.ones_like(SNR), rtol=1e-12, atol=0)
