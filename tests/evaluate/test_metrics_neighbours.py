"""Rows E3 and E4: what precision, recall, density, coverage and the search for copies see, and prdc's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.compare import compare_statistics
from inkwash.evaluate.metrics.extrapolate import cut
from inkwash.evaluate.metrics.interval import Statistic, mean_interval, proportion, wilson
from inkwash.evaluate.metrics.memorization import difference, memorization, nearest
from inkwash.evaluate.metrics.neighbours import (
    held,
    in_parts,
    neighbour_statistics,
    precision_recall_density_coverage,
    radii,
    share_estimate,
)

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
    assert far.density.high == wilson(0, 16)[1] * 60 / 5   # were each sample that a ball may hold in all balls


def test_a_common_offset_of_all_features_changes_nothing() -> None:
    """Far from the origin, where squares of float32 lose the distances, the sets are centred first."""
    real, fake = modes(300, 1), modes(200, 2, kept=6)
    offset = torch.tensor([1000.0, -1000.0] * 4)
    moved, still = precision_recall_density_coverage(real + offset, fake + offset), precision_recall_density_coverage(real, fake)
    for a, b in zip(moved, still, strict=True):
        assert a.value == pytest.approx(b.value, abs=0.006)


def test_held_counts_what_balls_hold() -> None:
    real, fake = modes(50, 1), modes(30, 2)
    radius = radii(real, 3)
    assert torch.allclose(radius, torch.cdist(real, real).square().kthvalue(4, dim=1).values, rtol=1e-4)     # the first is the sample itself
    of_points, of_balls = held(real, radius, fake)
    inside = torch.cdist(fake, real).square() <= radius
    assert torch.equal(of_points.long(), inside.sum(1))
    assert torch.equal(of_balls.long(), inside.sum(0))
    assert 0 < int(inside.sum()) < 1500


def test_parts_are_disjoint_and_measured_like_the_whole() -> None:
    """An interval of coverage whose parts overlapped, or were measured with other balls, would have another spread: here by its definition."""
    real, fake = modes(2500, 1), modes(300, 2, kept=6)
    recall, coverage = in_parts(real, fake, 4)
    assert recall.shape == coverage.shape == (30, 3)                                           # of 833 and 100, 60 degrees of freedom
    for cuts in (0, 29):
        for part, (i, j) in enumerate(zip(cut(2500, 3, 2 * cuts), cut(300, 3, 2 * cuts + 1))):
            whole = neighbour_statistics(real[i], fake[j], 4)
            assert recall[cuts, part] == pytest.approx(whole["recall"].value, abs=2e-3)        # the whole is centred at another mean
            assert coverage[cuts, part] == pytest.approx(whole["coverage"].value, abs=2e-3)


def test_intervals_are_as_wide_as_the_numbers_scatter() -> None:
    """Mean variance against the variance over 70 draws of both sets, of coverage and of the difference of two draws of one model, within 4 standard
    errors of the latter and a fifth. Leaving out samples one by one gave three times the variance."""
    values, said = [], []
    for seed in range(70):
        real, a, b = modes(120, 3 * seed), modes(120, 3 * seed + 1), modes(120, 3 * seed + 2)
        of_a, of_b = neighbour_statistics(real, a), neighbour_statistics(real, b)
        gaps = [compare_statistics(of_a[name], of_b[name], smaller_is_better=False).difference for name in of_a]
        values.append([of_a["coverage"].value, *(gap.value for gap in gaps)])
        said.append([of_a["coverage"].variance, *(((gap.high - gap.low) / 2 / 1.96) ** 2 for gap in gaps)])
    ratio = torch.tensor(said).mean(0) / torch.tensor(values).var(0)
    slack = 0.2 + 4 * (2 / 69) ** 0.5
    assert bool((ratio > 1 / (1 + slack)).all()), ratio
    assert bool((ratio < 1 + slack).all()), ratio


def test_density_is_a_mean_given_the_real_set() -> None:
    real, fake = modes(300, 1), modes(200, 2)
    of_points, _ = held(real, radii(real, 5), fake)
    found = precision_recall_density_coverage(real, fake).density
    assert found[:4] == pytest.approx(mean_interval(of_points / 5)[:4], rel=1e-3)


def test_shares_have_the_interval_of_their_own_trials() -> None:
    """Precision counts generated images and recall real ones, as many as there are; coverage is never surer than as many real ones would make it."""
    real, fake = modes(300, 1), modes(120, 2, kept=6)
    found = precision_recall_density_coverage(real, fake)
    assert found.precision[1:4] == (*wilson(found.precision.value, 120), 120)
    assert found.recall[1:4] == (*wilson(found.recall.value, 300), 300)
    assert (found.density.num, found.coverage.num) == (120, 300)
    sure = Statistic(0.5, torch.zeros(120), torch.zeros(300), parts=torch.tensor([[0.5, 0.5 + 1e-6]]))
    assert share_estimate(sure, 300)[1:3] == wilson(0.5, 300)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        precision_recall_density_coverage(modes(11, 1), modes(12, 2), k=5)
    assert caught.value.code == "bad_neighbours"


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """56 of 70 less 48 of 80 (Newcombe 1998, table II, method 10)."""
    found = difference(proportion(56, 70), proportion(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


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
