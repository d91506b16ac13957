"""Likelihoods agree with densities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import V
from inkwash.core.schedule import Cosine, Linear, Straight
from inkwash.core.spacing import Path, Uniform
from inkwash.denoiser import Denoiser
from inkwash.errors import UsageError
from inkwash.evaluate.denoisers.likelihood import Bound, bits_per_dimension, log_likelihood, variational_bound

F64 = torch.float64
MODES = Mixture(torch.tensor([0.3, 0.5, 0.2], dtype=F64), torch.tensor([[-1.2, 0.3], [0.4, -0.9], [1.5, 0.8]], dtype=F64),
                torch.tensor([[0.04, 0.1], [0.09, 0.05], [0.02, 0.2]], dtype=F64))
DATA = gaussian(torch.tensor([0.4, -0.2], dtype=F64), torch.tensor([0.25, 0.8], dtype=F64))
CLEAN = Level(torch.ones((), dtype=F64), torch.zeros((), dtype=F64))


def denoiser(data: Mixture):  # type: ignore[no-untyped-def]
    return lambda x, level, cond: data.denoise(x, level)


@pytest.mark.parametrize("schedule", [Cosine(), Straight()], ids=repr)
@pytest.mark.parametrize("data", [MODES, DATA], ids=["mixture", "gaussian"])
def test_t6_the_flow_gives_the_exact_density(data: Mixture, schedule) -> None:  # type: ignore[no-untyped-def]
    x0 = data.sample(40, torch.Generator().manual_seed(1))
    found = log_likelihood(denoiser(data), schedule, x0, steps=60)
    exact = data.log_prob(x0, CLEAN)
    assert float((found.log_prob - exact).abs().max()) < 1e-3
    assert found.evaluations == 239
    assert float(found.latent.abs().max()) < 6
    assert torch.allclose(found.bits_per_dimension(), -exact / (2 * math.log(2)), atol=1e-3)


def test_t6_hutchinsons_estimate_is_unbiased() -> None:
    x0 = MODES.sample(8, torch.Generator().manual_seed(2))
    exact = log_likelihood(denoiser(MODES), Cosine(), x0, steps=24).log_prob
    found = torch.stack([log_likelihood(denoiser(MODES), Cosine(), x0, steps=24, probes=1, seed=seed).log_prob for seed in range(24)])
    error = found.mean(0) - exact
    deviation = found.std(0) / math.sqrt(len(found))
    assert float(found.std(0).max()) > 0.01
    assert float((error.abs() / deviation.clamp(min=1e-6)).max()) < 4.5
    # In two dimensions z' J z = tr J + 2 z1 z2 J12, so probes of both signs cancel exactly when there are enough of them.
    many = log_likelihood(denoiser(MODES), Cosine(), x0, steps=24, probes=64, seed=1).log_prob
    assert float((many - exact).abs().mean()) < float((found[0] - exact).abs().mean())


def test_t6_a_leaking_process_is_off_by_its_prior() -> None:
    """The linear process keeps 0.6 % of the amplitude: the error is the prior's, not the solver's."""
    x0 = DATA.sample(20, torch.Generator().manual_seed(3))
    exact = DATA.log_prob(x0, CLEAN)
    error = (log_likelihood(denoiser(DATA), Linear(), x0, steps=60).log_prob - exact).abs().max()
    assert 1e-4 < float(error) < 2e-2
    assert float((log_likelihood(denoiser(DATA), Cosine(), x0, steps=60).log_prob - exact).abs().max()) < 1e-4


def test_it_works_on_a_network() -> None:
    """A network that predicts v = 0 believes in N(0, I): then x stays where it is."""
    class Silent(nn.Module):
        def forward(self, x: Tensor, noise: Tensor, cond: object) -> Tensor:
            return x * 0

    x0 = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(4))
    found = log_likelihood(Denoiser(Silent(), V()), Cosine(), x0, steps=5, probes=2)
    assert torch.allclose(found.log_prob, -0.5 * (x0.double() ** 2 + math.log(2 * math.pi)).flatten(1).sum(1), atol=1e-4)
    assert torch.allclose(found.latent, x0, atol=1e-5)


def test_bits_of_uniform_bytes() -> None:
    """Density 1 / 2 per dimension on [-1, 1] in bins of 2 / 256 is 8 bits."""
    assert float(bits_per_dimension(torch.tensor(-12 * math.log(2.0)), 12, 2 / 256)) == pytest.approx(8)


def analytic(path: Path, x0: Tensor) -> Bound:
    """The bound of DATA with its exact denoiser, averaged over data: E|x0 - x0_hat|^2 = sum_i v_i sigma^2 / (alpha^2 v_i + sigma^2)."""
    level = Gauge.VP.split(path.levels.lam[path.levels.sigma > 0])
    v = DATA.variances[0]
    left = (v * level.sigma[:, None] ** 2 / (level.alpha[:, None] ** 2 * v + level.sigma[:, None] ** 2)).sum(1)
    second = float((v + DATA.means[0] ** 2).sum())
    a, s = level.alpha[0], level.sigma[0]
    return Bound(0.5 * (a**2 * second + 2 * (s**2 - 1 - 2 * s.log())), 0.5 * level.snr.diff() * left[:-1],
                 0.5 * (level.snr[-1] * left[-1] + 2 * (math.log(2 * math.pi) - level.snr[-1].log())))


def test_t6_terms_of_the_bound_are_analytic_on_gaussian_data() -> None:
    path = Uniform().levels(Cosine(), 12)
    x0 = DATA.sample(20_000, torch.Generator().manual_seed(5))
    found, known = variational_bound(denoiser(DATA), path, x0), analytic(path, x0)
    for mine, theirs in ((found.prior, known.prior), (found.decoder, known.decoder)):
        assert float(mine.mean()) == pytest.approx(float(theirs), rel=0.02)
    assert found.steps.shape == (20_000, 11)
    assert torch.allclose(found.steps.mean(0), known.steps, rtol=0.05)


def test_t6_the_bound_is_below_the_density_and_tightens() -> None:
    x0 = MODES.sample(4000, torch.Generator().manual_seed(6))
    exact = -float(MODES.log_prob(x0, CLEAN).mean())
    paths = [Path.of(Gauge.VP, torch.linspace(-6, 5, steps, dtype=F64)) for steps in (10, 40, 160)]
    gaps = [float(variational_bound(denoiser(MODES), path, x0).total.mean()) - exact for path in paths]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] > 0
    assert gaps[2] < 0.6


def test_wrong_use_is_refused() -> None:
    for settings in ({"steps": 0}, {"probes": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            log_likelihood(denoiser(DATA), Cosine(), torch.zeros(1, 2, dtype=F64), **settings)
