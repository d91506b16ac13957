"""Rows E3 and E4: what precision, recall, density, coverage and the search for copies see, and prdc's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.memorization import memorization, nearest
from inkwash.evaluate.metrics.neighbours import Hits, balls, hits, neighbour_statistics, precision_recall_density_coverage

CENTRES = 3 * torch.eye(8)


def modes(num: int, seed: int, kept: int = 8, noise: float = 0.3) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return CENTRES[torch.randint(kept, (num,), generator=rng)] + noise * torch.randn(num, 8, generator=rng)


def test_agrees_with_prdc(capsys: pytest.CaptureFixture[str]) -> None:
    prdc = pytest.importorskip("prdc", reason="prdc is in the test group; make install")
    real, fake = modes(1300, 1), modes(1100, 2, kept=5, noise=0.4)                             # several blocks
    expected = prdc.compute_prdc(real_features=real.numpy(), fake_features=fake.numpy(), nearest_k=4)
    found = precision_recall_density_coverage(real, fake, k=4)
    for name, value in expected.items():
        assert getattr(found, name).value == pytest.approx(float(value), abs=1e-3), name
    assert expected["precision"] < 0.95


def test_lost_modes_lower_recall_and_coverage_alone() -> None:
    real, good = modes(1000, 1), precision_recall_density_coverage(modes(1000, 1), modes(1000, 2))
    lost = precision_recall_density_coverage(real, modes(1000, 3, kept=4))
    assert lost.recall.high < 0.65 < 0.85 < good.recall.low
    assert lost.coverage.high < 0.65 < 0.85 < good.coverage.low
    assert lost.precision.low > 0.85


def test_bad_pictures_lower_precision_and_density_alone() -> None:
    real, good = modes(1000, 1), precision_recall_density_coverage(modes(1000, 1), modes(1000, 2))
    bad = precision_recall_density_coverage(real, modes(1000, 3, noise=0.6))
    assert bad.precision.high < 0.3 < 0.85 < good.precision.low
    assert bad.density.high < 0.3 < 0.7 < good.density.low
    assert bad.recall.low > 0.85


def test_a_density_of_zero_is_no_proof_of_zero() -> None:
    far = precision_recall_density_coverage(modes(60, 1), modes(16, 2) + 50)
    assert far.density.value == far.density.low == 0 < far.precision.high < far.density.high


def test_influences_are_those_of_leaving_out() -> None:
    """Exact, for every metric and either set: compared with 45 and 40 repetitions of the whole measurement."""
    real, fake = modes(45, 1).double(), modes(40, 2, noise=0.5).double()
    found = neighbour_statistics(real, fake, 3)
    for side, count in (("real", 45), ("fake", 40)):
        without = [neighbour_statistics(*((real[keep], fake) if side == "real" else (real, fake[keep])), 3)
                   for keep in (torch.arange(count) != j for j in range(count))]
        for name, statistic in found.items():
            change = torch.tensor([-(count - 1) * (less[name].value - statistic.value) for less in without], dtype=torch.float64)
            assert torch.allclose(getattr(statistic, side), change - change.mean(), atol=1e-8), (name, side)


def test_hits_count_what_balls_hold() -> None:
    real, fake = modes(50, 1), modes(30, 2)
    of = balls(real, 3)
    found: Hits = hits(real, of, fake)
    inside = torch.cdist(fake, real).square() <= of.radius
    assert torch.equal(found.balls.long(), inside.sum(1))
    assert torch.equal(found.points.long(), inside.sum(0))


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        precision_recall_density_coverage(modes(6, 1), modes(6, 2), k=5)
    assert caught.value.code == "bad_neighbours"


def test_planted_copies_are_found_and_fresh_images_are_not() -> None:
    """Row E4: 20 exact and 20 near copies among 1000; false alarms stay at the rate that was asked."""
    train, held_out, fake = modes(2000, 1), modes(1000, 2), modes(1000, 3)
    fake[:20] = train[100:120]
    fake[20:40] = train[200:220] + 0.01 * torch.randn(20, 8, generator=torch.Generator().manual_seed(4))
    found = memorization(fake, train, held_out, rate=0.01)
    assert bool(found.flagged[:40].all())
    assert int(found.flagged[40:].sum()) <= 22                                                 # 1 % of 960, and 4 standard errors
    assert found.false_positives.holds(0.01)
    assert found.excess.holds(0.04)
    assert found.excess.low > 0.02
    assert {(copy.fake, copy.train) for copy in found.copies[:40]} == {(i, 100 + i if i < 20 else 180 + i) for i in range(40)}
    assert [copy.ratio for copy in found.copies] == sorted(copy.ratio for copy in found.copies)
    assert found.copies[0].distance == 0


def test_a_model_that_learned_is_not_accused() -> None:
    found = memorization(modes(1000, 3), modes(2000, 1), modes(1000, 2))
    assert found.excess.low <= 0
    alone = memorization(modes(1000, 3), modes(2000, 1))                                       # calibrated on the training set itself
    assert alone.excess.low <= 0
    assert alone.false_positives.holds(0.01)


def test_nearest_equals_the_full_distance_matrix() -> None:
    x, train = modes(70, 1), modes(90, 2)
    distances, indices = nearest(x, train, 5)
    expected = torch.cdist(x.double(), train.double()).topk(5, largest=False)
    assert torch.allclose(distances, expected.values, rtol=1e-9)
    assert torch.equal(indices, expected.indices)


@pytest.mark.parametrize(("rate", "k", "held", "code"), [(0.0, 5, 500, "bad_rate"), (0.01, 1, 500, "bad_neighbours"), (0.01, 5, 50, "too_few")])
def test_settings_that_cannot_work_are_refused(rate: float, k: int, held: int, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        memorization(modes(50, 1), modes(100, 2), modes(held, 3), rate=rate, k=k)
    assert caught.value.code == code
