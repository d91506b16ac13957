"""A trained toy finds all modes of a mixture and nearly reaches the least possible loss (row T5, T9); a collapsed one is told apart."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from inkwash.core.analytic import gaussian
from inkwash.core.prediction import Eps, V
from inkwash.core.schedule import Cosine
from inkwash.denoiser import Denoiser


@pytest.fixture(scope="module")
def modes() -> ModuleType:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import modes
    finally:
        sys.path.remove(folder)
    return modes


def test_a_toy_trained_for_seconds_covers_every_mode_within_two_percent_of_the_optimum(modes: ModuleType) -> None:
    data, schedule = modes.grid(3, 0.15), Cosine()
    denoiser = modes.trained(data, 0, V(), schedule, 800, 512)
    met = modes.coverage(modes.samples(denoiser, schedule, 4000, 0), data)
    assert met.modes == 9
    assert met.divergence < 0.05
    left = modes.excess(denoiser, data, schedule)
    assert -4 * left["standard_error"] < left["excess"] < 0.02


def test_the_least_loss_on_a_gaussian_is_the_closed_form(modes: ModuleType) -> None:
    """Unit-variance Gaussian data: E|eps - E[eps | x]|^2 = alpha^2 per number, so its mean over t is that of cos^2."""
    data, schedule = gaussian(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)), Cosine()
    denoiser = Denoiser(modes.Plane(8, 1), Eps())
    _, ideal = modes.losses(denoiser, data, schedule, 100_000, torch.Generator().manual_seed(0))
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    expected = float(schedule(t).alpha.square().mean())
    assert abs(float(ideal.mean()) - expected) < 4 * float(ideal.std()) / math.sqrt(len(ideal))


def test_an_untrained_network_is_far_from_the_optimum(modes: ModuleType) -> None:
    data, schedule = modes.grid(3, 0.15), Cosine()
    denoiser = modes.trained(data, 0, V(), schedule, 5, 64)
    assert modes.excess(denoiser, data, schedule)["excess"] > 0.05


def test_coverage_tells_dropped_modes_and_blurred_samples(modes: ModuleType) -> None:
    data = modes.grid()
    true = data.sample(10_000, torch.Generator().manual_seed(0))
    whole = modes.coverage(true, data)
    assert whole.modes == 25
    assert whole.divergence < 0.005
    assert whole.near > 0.99
    one = modes.coverage(data.component(7).sample(10_000, torch.Generator().manual_seed(0)), data)
    assert one.modes == 1
    assert one.divergence == pytest.approx(math.log(25))
    blurred = modes.coverage(true + 0.3 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64), data)
    assert blurred.modes == 25
    assert blurred.near < 0.7
