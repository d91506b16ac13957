"""Rows S6, G4, L4 and T10: what the curves, the parts and the table of families are to show, where the truth is known or the run is short."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from inkwash.core.analytic import gaussian
from inkwash.core.schedule import Linear
from inkwash.core.spacing import Trailing
from inkwash.evaluate.measure import saturation
from inkwash.evaluate.metrics.frechet import frechet
from inkwash.evaluate.metrics.moments import Moments
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    sys.path.insert(0, BENCHMARKS)
    yield
    sys.path.remove(BENCHMARKS)


def spectrum(name: str, steps: int, count: int = 2500) -> float:
    """Sum over 64 frequencies of the squared error of the deviation: the Frechet distance from data whose power falls as 1 / k^2, as that of pictures
    does. The denoiser is exact."""
    variance = 1 / torch.arange(1, 65, dtype=torch.float64).square()
    data = gaussian(torch.zeros(64, dtype=torch.float64), variance / variance.mean())
    plan = parse(name, Sampler).plan(Trailing().levels(Linear(), steps))  # type: ignore[type-abstract]
    start = prior(plan, (count, 64), 1, 0).double()
    start = (start - start.mean(0)) / start.std(0)          # the noise of the start, which all samplers share, is no matter here
    x = run(lambda x, level, index: data.denoise(x[0], level)[None], [Program(plan, 1, 0, start)])[0].clean.x
    return float((x.std(0) - data.variances[0].sqrt()).square().sum())


def test_S6_ancestral_sampling_falls_behind_at_few_steps() -> None:
    """Without any error of a network, on the linear process: 2 to 3 times the distance of DDIM at 10 to 50 steps, as Song et al. 2021 (arXiv
    2010.02502, table 1, eta = 1) found for networks; at 1000 nothing is left but the noise of counting."""
    ddpm, ddim, multistep = ({steps: spectrum(name, steps) for steps in (10, 20, 50)} for name in ("ddpm", "ddim", "dpmpp_2m"))
    for steps in (10, 20, 50):
        assert 5 * ddim[steps] > ddpm[steps] > 1.8 * ddim[steps] > 5 * multistep[steps], steps
    assert ddpm[10] > 2 * ddpm[20] > 4 * ddpm[50]
    assert spectrum("ddpm", 1000, 1000) < 2 * 64 / (2 * 1000)                           # 64 / 2N is what N exact samples have


def test_G4_guidance_trades_diversity_for_adherence(benchmarks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a mixture with exact scores, in both conventions of the scale: adherence rises and saturates, diversity falls, the mean drifts off."""
    curves = import_module("curves")
    monkeypatch.setattr(curves, "SCALES", (0.0, 1.0, 3.0, 7.5, 15.0))
    monkeypatch.setattr(curves, "tilted", lambda data, k, w, count: torch.zeros(count, 2, dtype=torch.float64))
    rows = {row["w"]: row for row in curves.guidance()["rows"]}
    assert [row["w_extra"] for row in rows.values()] == [-1, 0, 2, 6.5, 14]
    assert [row["nfe"] for row in rows.values()] == [60, 60, 120, 120, 120]
    assert rows[0.0]["adherence"] == pytest.approx(0.4, abs=0.03)                       # no condition: the class's share of the data
    assert rows[0.0]["adherence"] < rows[1.0]["adherence"] < rows[3.0]["adherence"] <= rows[7.5]["adherence"]
    assert 1 == rows[1.0]["diversity"] > rows[3.0]["diversity"] > rows[7.5]["diversity"]
    assert rows[1.0]["shift"] < 0.1 < rows[3.0]["shift"] < rows[15.0]["shift"]


def test_G4_saturation_is_that_of_colours() -> None:
    colours = torch.tensor([[255, 0, 0], [255, 128, 128], [90, 90, 90], [0, 0, 0], [10, 20, 40]], dtype=torch.uint8)
    found = saturation(colours[:, :, None, None].expand(-1, -1, 4, 4))
    assert found.tolist() == pytest.approx([1.0, 127 / 255, 0.0, 0.0, 0.75])


def test_L4_errors_of_autoencoder_and_denoiser_are_told_apart() -> None:
    """A codec that blurs and a denoiser that loses contrast, on Gaussian features: each distance is the closed form of its own fault, and the root of
    the whole is at most the sum of the roots."""
    def features(seed: int, scale: float, shift: float) -> Moments:
        rng = torch.Generator().manual_seed(seed)
        return Moments.of(scale * torch.randn(20_000, 4, generator=rng, dtype=torch.float64) + shift)

    real, blurred, both = features(1, 1.0, 0.0), features(2, 0.8, 0.0), features(3, 0.8, 0.5)
    assert frechet(real, blurred) == pytest.approx(4 * 0.2**2, rel=0.1)
    assert frechet(blurred, both) == pytest.approx(4 * 0.5**2, rel=0.05)
    assert frechet(real, both) == pytest.approx(4 * 0.2**2 + 4 * 0.5**2, rel=0.05)
    assert math.sqrt(frechet(real, both)) <= math.sqrt(frechet(real, blurred)) + math.sqrt(frechet(blurred, both))


def test_T10_every_cell_of_the_table_of_families_is_measured(benchmarks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the compute: not the numbers, but that all are there, for the same compute."""
    families, plane = import_module("families"), import_module("families_plane")
    for name, less in (("COUNT", 1000), ("CHECKED", 200), ("CHECKS", 2)):
        monkeypatch.setattr(plane, name, less)
    kept: list[object] = []
    found = {"plane": plane.plane(1, {}, kept.append, plane.BUDGET / 1000)}
    assert len(kept) == 3                                                               # what is trained is kept at once
    for family in ("GAN", "VAE", "diffusion"):
        only = found["plane"][family][0]
        assert all(math.isfinite(value) for value in only.values()), family
        assert only["nats"] > found["plane"]["entropy"] - 0.1, family
    table = families.table(found).splitlines()
    cells: list[list[str]] = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[3:]]
    assert len(cells) == 8
    assert all(cell for row in cells for cell in row[2:])


def test_T10_pictures_are_compared_in_all_that_the_table_shows(benchmarks: None) -> None:
    pictures = import_module("families_images")
    rng = torch.Generator().manual_seed(0)
    real, near, far = (scale * torch.randn(200, 8, generator=rng) for scale in (1.0, 1.0, 3.0))
    same, other = pictures.compared(real, near), pictures.compared(real, far)
    assert set(same) == set(pictures.COMPARED)
    assert all(low <= value <= high for value, low, high in (*same.values(), *other.values()))
    assert same["fd"][0] < other["fd"][0]
    assert same["precision"][0] > other["precision"][0]
