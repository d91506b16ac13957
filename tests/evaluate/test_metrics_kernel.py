"""KID, CMMD and the CLIP score (row E2) against plain formulas, torchmetrics and shuffled captions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.clipscore import clip_score, clip_statistic
from inkwash.evaluate.metrics.cmmd import cmmd
from inkwash.evaluate.metrics.interval import spread
from inkwash.evaluate.metrics.kernel import kernel_distance, kernel_distance_subsets, kernel_statistic


def draw(num: int, dim: int, seed: int) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def off_diagonal(k: Tensor) -> float:
    return float(k.sum() - k.trace()) / (len(k) * (len(k) - 1))


def test_kernel_distance_is_its_definition() -> None:
    x, y = draw(1500, 7, 1).double(), draw(1100, 7, 2).double() * 1.2 + 0.2                   # several tiles, uneven
    k = [(a @ b.T / 7 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    expected = off_diagonal(k[0]) + off_diagonal(k[1]) - 2 * float(k[2].mean())
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(x.float(), y.float()).value == pytest.approx(expected, rel=1e-4)


def test_kernel_influence_is_what_leaving_out_a_sample_changes() -> None:
    x, y = draw(60, 4, 1).double(), draw(50, 4, 2).double() + 0.5
    found = kernel_statistic(x, y)
    left = torch.tensor([kernel_statistic(x, y[torch.arange(50) != j]).value for j in range(50)], dtype=torch.float64)
    jackknife = 49 / 50 * float((left - left.mean()).square().sum())
    assert spread(found.fake) == pytest.approx(jackknife, rel=0.1)


def test_surplus_is_the_variance_between_sets_of_one_distribution() -> None:
    """There the influences vanish, and all scatter is of second order, most of it from the smaller set; paired sets hold a sample and its noisy
    copy."""
    for m, n, paired in ((40, 30, False), (15, 90, False), (90, 15, False), (40, 40, True)):
        values, surplus = [], []
        for seed in range(300):
            x = draw(m, 12, 2 * seed)
            y = draw(n, 12, 2 * seed + 1) if not paired else torch.where(draw(40, 1, seed + 10**6) > 0, x, x.flip(1))
            found = kernel_statistic(x, y, paired=paired)
            values.append(found.value)
            surplus.append(found.surplus)
        ratio = sum(surplus) / 300 / float(torch.tensor(values, dtype=torch.float64).var())
        assert 0.75 < ratio < 1.33, (m, n, paired, ratio)


def test_clip_influence_is_what_leaving_out_a_pair_changes() -> None:
    image, text = unit(draw(60, 8, 1).double() + 1), unit(draw(60, 8, 2).double())
    text[:30] = image[:30]
    found = clip_statistic(image, text)
    rest = [torch.arange(60) != j for j in range(60)]
    left = torch.tensor([clip_statistic(image[keep], text[keep]).value for keep in rest], dtype=torch.float64)
    torch.testing.assert_close(found.fake, 59 * (left.mean() - left), rtol=0.1, atol=0.05 * float(found.fake.std()))


class Same(nn.Module):
    num_features = 6

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :6].float() / 100


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is in the test group; make install")
    a, b = (torch.randint(0, top, (300, 3, 2, 1), generator=torch.Generator().manual_seed(top), dtype=torch.uint8) for top in (256, 200))
    metric = kid.KernelInceptionDistance(feature=Same(), subsets=2, subset_size=300)           # a subset of all is the whole
    metric.update(a, real=True)
    metric.update(b, real=False)
    mean, std = metric.compute()
    ours = kernel_distance_subsets(Same()(a), Same()(b), size=300, num=2)
    assert ours.mean == pytest.approx(float(mean), rel=1e-4)
    assert ours.std == pytest.approx(float(std), abs=1e-5)
    assert kernel_distance(Same()(a), Same()(b)).value == pytest.approx(float(mean), rel=1e-4)


def test_the_mean_and_deviation_over_subsets_are_those_of_torchmetrics() -> None:
    """Drawn from the same stream: torchmetrics permutes the real set, then the other, for every subset, from torch's own generator."""
    kid = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is in the test group; make install")
    a, b = (torch.randint(0, top, (300, 3, 2, 1), generator=torch.Generator().manual_seed(top), dtype=torch.uint8) for top in (256, 200))
    metric = kid.KernelInceptionDistance(feature=Same(), subsets=4, subset_size=50)
    metric.update(a, real=True)
    metric.update(b, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        mean, std = metric.compute()
    ours = kernel_distance_subsets(Same()(a), Same()(b), size=50, num=4, seed=3)
    assert ours == pytest.approx((float(mean), float(std), 50, 4), rel=1e-4)
    assert ours.std > 0.01 * ours.mean


def test_cmmd_is_its_definition() -> None:
    x, y = unit(draw(300, 8, 1).double()), unit(draw(250, 8, 2).double() + 0.3)
    k = [torch.exp(-torch.cdist(a, b).square() / 200) for a, b in ((x, x), (y, y), (x, y))]
    plain = 1000 * float(k[0].mean() + k[1].mean() - 2 * k[2].mean())                          # of the authors' program
    assert cmmd(x, y, biased=True).value == pytest.approx(plain, rel=1e-7)
    assert cmmd(x, y).value == pytest.approx(1000 * (off_diagonal(k[0]) + off_diagonal(k[1]) - 2 * float(k[2].mean())), rel=1e-7)
    assert cmmd(x.float(), y.float()).value == pytest.approx(cmmd(x, y).value, rel=1e-4)


def test_embeddings_must_have_unit_length() -> None:
    with pytest.raises(UsageError) as caught:
        cmmd(draw(30, 4, 1), draw(30, 4, 2))
    assert caught.value.code == "not_unit"


def test_matched_captions_beat_shuffled_ones_by_five_sigma() -> None:
    """Row E2. Weakly matching pairs; after shuffling the same images show nothing."""
    text = unit(draw(400, 32, 1))
    image = unit(0.5 * text + draw(400, 32, 2) / 32**0.5)
    matched = clip_score(image, text)
    assert matched.sigmas > 5
    assert matched.gap.low > 0
    shuffled = clip_score(image, text[torch.randperm(400, generator=torch.Generator().manual_seed(3))])
    assert abs(shuffled.sigmas) < 4
    assert shuffled.gap.low < 0 < shuffled.gap.high


def test_sigmas_are_those_of_random_pairings() -> None:
    text = unit(draw(40, 6, 1))
    image = unit(text + draw(40, 6, 2))
    generator = torch.Generator().manual_seed(0)
    sums = torch.tensor([float((image * text[torch.randperm(40, generator=generator)]).sum()) for _ in range(4000)])
    expected = (float((image * text).sum()) - float(sums.mean())) / float(sums.std())
    assert clip_score(image, text).sigmas == pytest.approx(expected, rel=0.06)


def test_gap_is_the_mean_of_own_pairs_less_that_of_wrong_pairs() -> None:
    image, text = unit(draw(30, 5, 1).double()), unit(draw(30, 5, 2).double())
    s = 100 * image @ text.T
    assert clip_score(image, text).gap.value == pytest.approx(float(s.diagonal().mean()) - off_diagonal(s), rel=1e-10)
