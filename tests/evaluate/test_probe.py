"""Twenty samples tell a wrong declaration from a right one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.analytic import Mixture
from inkwash.core.coordinate import Angle
from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import Eps, Prediction, Score, V, Velocity
from inkwash.core.schedule import Cosine, Linear, Schedule, Straight
from inkwash.denoiser import Denoiser
from inkwash.errors import UsageError, VerifyError
from inkwash.evaluate.denoisers.probe import PREDICTIONS, probe

DATA = Mixture(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, -0.4, 0.7, 0.2], [-0.8, 0.6, -0.5, 1.1]]), torch.full((2, 4), 0.1))
X0 = DATA.sample(20, torch.Generator().manual_seed(0))


class Exact(nn.Module):
    """A perfect network for DATA: it predicts `sign` * `prediction` on `schedule`, and counts time backwards when `mirrored`."""

    def __init__(self, prediction: Prediction, schedule: Schedule, sign: int = 1, mirrored: bool = False, data: Mixture = DATA) -> None:
        super().__init__()
        self.data = data
        self.prediction, self.schedule, self.sign, self.mirrored = prediction, schedule, sign, mirrored

    def forward(self, x: Tensor, noise: Tensor, cond: object) -> Tensor:
        angle = noise.double() / 1000 * torch.pi / 2
        lam = -torch.log(torch.tan(angle))
        if self.mirrored:
            lam = self.schedule.lam(1 - self.schedule.time(lam))
        level = self.schedule.gauge.split(lam)
        x0 = self.data.denoise(x, level)
        return self.sign * self.prediction.target(level, x0, level.eps(x, x0))


def built(network: Exact, declared: Prediction) -> Denoiser:
    return Denoiser(network, declared, network.schedule.gauge, coordinate=Angle())


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Straight()], ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
def test_r1_what_is_declared_rightly_agrees(prediction: Prediction, schedule: Schedule) -> None:
    found = probe(built(Exact(prediction, schedule), prediction), schedule, X0)
    assert found.agrees, found.message
    assert found.declared.error < 0.8
    found.require()


@pytest.mark.parametrize("schedule", [Cosine(), Straight()], ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
@pytest.mark.parametrize(("sign", "mirrored"), [(-1, False), (1, True), (-1, True)])
def test_r1_a_wrong_sign_or_direction_is_found(prediction: Prediction, schedule: Schedule, sign: int, mirrored: bool) -> None:
    found = probe(built(Exact(prediction, schedule, sign, mirrored), prediction), schedule, X0)
    assert found.trained
    assert not found.agrees
    assert found.best.mirrored == mirrored
    level = schedule(0.4)
    mine, theirs = prediction.coefficients(level), found.best.prediction.coefficients(level)
    assert torch.allclose(sign * torch.stack(mine), found.best.sign * torch.stack(theirs)), found.message
    with pytest.raises(VerifyError, match="but its answers are those of"):
        found.require()


@pytest.mark.parametrize("declared", PREDICTIONS, ids=repr)
@pytest.mark.parametrize("does", PREDICTIONS, ids=repr)
def test_r1_a_wrong_prediction_is_found(does: Prediction, declared: Prediction) -> None:
    schedule = Straight()
    found = probe(built(Exact(does, schedule), declared), schedule, X0)
    level = schedule(0.4)
    same = torch.allclose(torch.stack(does.coefficients(level)), torch.stack(declared.coefficients(level)))
    assert found.agrees == same, found.message


def test_r1_the_other_convention_of_rectified_flow() -> None:
    """t = 1 at the data and the velocity x0 - eps: both differences are named."""
    found = probe(built(Exact(Velocity(), Straight(), -1, True), Velocity()), Straight(), X0)
    assert str(found.best) == "-velocity with time reversed"


def test_r1_verdicts_hold_for_other_samples_and_noise() -> None:
    for seed in range(10):
        x0 = DATA.sample(20, torch.Generator().manual_seed(100 + seed))
        for sign in (1, -1):
            assert probe(built(Exact(Velocity(), Straight(), sign), Velocity()), Straight(), x0, seed=seed).agrees == (sign == 1)


@pytest.mark.parametrize("declared", [Eps(), V(), Score()], ids=repr)
def test_a_network_that_has_hardly_learned_is_read_where_it_says_something(declared: Prediction) -> None:
    """At the noisy end an error in eps is multiplied until velocity, a reading that shrinks, has the smallest error in the mean."""
    data = Mixture(DATA.weights, DATA.means, torch.full((2, 4), 0.02))

    class Hardly(Exact):
        def forward(self, x: Tensor, noise: Tensor, cond: object) -> Tensor:
            return super().forward(x, noise, cond) + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    found = probe(built(Hardly(Eps(), Linear(), data=data), declared), Linear(), data.sample(20, torch.Generator().manual_seed(0)))
    assert found.readings[0].prediction == Velocity()
    assert found.agrees == (declared == Eps()), found.message


def test_untrained_networks_are_not_accused_of_a_sign() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor, noise: Tensor, cond: object) -> Tensor:
            return torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 3

    found = probe(Denoiser(Noise(), Velocity(), Gauge.FLOW), Straight(), X0)
    assert not found.trained
    assert not found.agrees
    assert "better than a guess" in found.message


def test_scale_of_the_data_and_gauge_do_not_matter() -> None:
    network = Exact(Velocity(), Straight())
    denoiser = Denoiser(network, Velocity(), Gauge.FLOW, sigma_data=4.0)
    assert probe(denoiser, Straight(), 4 * X0).agrees
    assert probe(denoiser, Cosine(), 4 * X0).agrees


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 8"):
        probe(built(Exact(Velocity(), Straight()), Velocity()), Straight(), X0[:4])


def test_the_exact_network_is_exact() -> None:
    denoiser = built(Exact(Velocity(), Straight()), Velocity())
    level = Level(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64))
    assert torch.allclose(denoiser(X0[:1], level, Cond.none(1)), DATA.denoise(X0[:1], level), atol=1e-4)
