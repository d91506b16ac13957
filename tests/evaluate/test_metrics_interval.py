"""Row E5 and the promise of every number: intervals that hold the truth 95 times of 100, paired tests, tables of slices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.compare import compare, compare_statistics
from inkwash.evaluate.metrics.frechet import distance, frechet_distance, frechet_unbiased
from inkwash.evaluate.metrics.interval import Estimate, Statistic, bootstrap, mean_interval, proportion, student_quantile, wilson
from inkwash.evaluate.metrics.kernel import kernel_statistic
from inkwash.evaluate.metrics.moments import Moments
from inkwash.evaluate.metrics.slices import compare_slices, holm, slice_table, slices_by_word


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 400, 5000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_quantiles_of_student(degrees: int, level: float) -> None:
    assert student_quantile(level, degrees) == pytest.approx(scipy.stats.t.ppf(0.5 + level / 2, degrees), rel=1e-6)


@pytest.mark.parametrize(("hits", "num"), [(0, 20), (3, 20), (20, 20), (117, 5000)])
def test_wilson_equals_scipy(hits: int, num: int) -> None:
    expected = scipy.stats.binomtest(hits, num).proportion_ci(0.95, method="wilson")
    assert wilson(hits / num, num) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_text_of_an_estimate() -> None:
    assert Estimate(0.12345, 0.1, 0.15, 500, note="k = 5").text(3) == "0.123 [0.1, 0.15] (95 %, N = 500); k = 5"


def test_mean_and_bootstrap_agree_on_a_mean() -> None:
    values = torch.rand(300, generator=rng(1)).exp()
    exact, drawn = mean_interval(values), bootstrap(values, torch.mean, resamples=2000)
    assert drawn.value == pytest.approx(exact.value, rel=1e-6)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), rel=0.01)


def test_the_bootstrap_is_scipys_bca_on_skewed_values() -> None:
    """Twenty heavy-tailed values: without the shift or the acceleration the ends would be off by a tenth of the width and more."""
    values = (1.5 * torch.randn(20, generator=rng(4), dtype=torch.float64)).exp()
    found = bootstrap(values, torch.mean, resamples=8000)
    exact = scipy.stats.bootstrap((values.numpy(),), np.mean, n_resamples=20_000, method="BCa", random_state=np.random.default_rng(0))
    low, high = exact.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_the_interval_of_a_squared_distance_is_the_square_of_the_interval_of_its_root() -> None:
    """sqrt(v) has the error s / (2 sqrt(v)), so that the ends are (sqrt(v) -+ z s / (2 sqrt(v)))^2."""
    influence = torch.randn(50, generator=rng(2), dtype=torch.float64)
    error = (float(influence.var()) / 50) ** 0.5
    value, z = 6 * error, scipy.stats.norm.ppf(0.975)
    found = Statistic(value, influence, torch.zeros(0), squared=True).estimate()
    half = z * error / (2 * value**0.5)
    assert (found.low, found.high) == pytest.approx(((value**0.5 - half) ** 2, (value**0.5 + half) ** 2), rel=1e-12)


def test_the_variance_of_a_statistic_is_its_definition() -> None:
    fake, real = torch.randn(30, generator=rng(1), dtype=torch.float64), torch.randn(20, generator=rng(2), dtype=torch.float64)
    first = float(fake.var()) / 30 + float(real.var()) / 20
    assert Statistic(0.0, fake, real).variance == pytest.approx(first)
    assert Statistic(0.0, fake, real, surplus=first / 3).variance == pytest.approx(first * 2 / 3)
    assert Statistic(0.0, fake, real, surplus=first).variance == pytest.approx(first / 4)
    parts = 10 * torch.randn(5, 4, generator=rng(3), dtype=torch.float64)               # of the mean over 4 parts, averaged over 5 cuts
    assert Statistic(0.0, fake, real, parts=parts).variance == pytest.approx(float(parts.var(1).mean()) / 4)


@pytest.mark.parametrize("paired", [True, False])
def test_a_comparison_is_a_z_test_of_the_differences_of_influences(paired: bool) -> None:
    draw = rng(5)
    of_a, of_b, on_a, on_b = (torch.randn(40, generator=draw, dtype=torch.float64) for _ in range(4))
    found = compare_statistics(Statistic(1.3, of_a, on_a), Statistic(1.0, of_b, on_b), smaller_is_better=False, paired=paired)
    own = float((of_a - of_b).var()) if paired else float(of_a.var() + of_b.var())
    error = ((own + float((on_a - on_b).var())) / 40) ** 0.5
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(0.3 / error), rel=1e-9)
    assert found.difference.high - found.difference.value == pytest.approx(scipy.stats.norm.ppf(0.975) * error, rel=1e-9)
    needed = ((scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) * error / 0.3) ** 2 * 40
    assert found.num_to_decide == math.ceil(needed)
    bad = compare_statistics(Statistic(9.0, of_a, on_a), Statistic(1.0, of_b, on_b), smaller_is_better=True, paired=paired)
    good = compare_statistics(Statistic(9.0, of_a, on_a), Statistic(1.0, of_b, on_b), smaller_is_better=False, paired=paired)
    assert (bad.better, good.better) == ("b", "a")


@pytest.mark.parametrize(("errors", "holds"), [(-1.0, True), (0.5, True), (1.5, True), (1.9, True), (2.1, False), (4.0, False)])
def test_a_squared_distance_is_told_from_zero_as_a_test_of_zero_says(errors: float, holds: bool) -> None:
    """At zero half the variance of the influences is their own noise; `errors` counts standard errors of what is left."""
    noise = torch.randn(50, generator=rng(2)).double()
    seen = float(noise.var()) / 50
    found = Statistic(errors * (seen / 2) ** 0.5, noise, torch.zeros(0), surplus=seen / 2, squared=True).estimate()
    assert found.holds(0.0) == holds
    assert found.low <= max(found.value, 0.0) < found.high


TRUTH = distance(torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64), torch.full((8,), 0.1, dtype=torch.float64),
                 1.2 * torch.eye(8, dtype=torch.float64))


def pair(seed: int) -> tuple[Tensor, Tensor]:
    return torch.randn(400, 8, generator=rng(seed)), 0.1 + 1.2**0.5 * torch.randn(400, 8, generator=rng(seed + 10**6))


def test_intervals_of_the_frechet_distance_hold_the_truth_and_naive_ones_do_not() -> None:
    """95 % within 4 standard errors over 200 draws. Percentiles of the resampled plain distance carry its bias twice and fail."""
    held = sum(frechet_distance(*pair(seed)).unbiased.holds(TRUTH) for seed in range(200))
    assert 178 <= held <= 200

    def plain(x: Tensor, y: Tensor) -> float:
        p, q = Moments.of(x), Moments.of(y)
        return distance(p.mean(), p.covariance(), q.mean(), q.covariance())

    naive = 0
    for seed in range(20):
        x, y = pair(seed)
        drawn = torch.tensor([plain(*(z[torch.randint(400, (400,), generator=rng(100 * seed + i))] for z in (x, y))) for i in range(40)])
        naive += float(drawn.quantile(0.025)) <= TRUTH <= float(drawn.quantile(0.975))
    assert naive <= 12


def test_intervals_of_paired_differences_hold_the_truth() -> None:
    """B is A stretched by 3 %: the pairs see it, and the interval of strangers would be several times as wide."""
    def at(scale: float) -> float:
        return distance(torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64), torch.full((8,), 0.1 * scale, dtype=torch.float64),
                        1.2 * scale**2 * torch.eye(8, dtype=torch.float64))
    truth, held, widths = at(1) - at(1.03), 0, [0.0, 0.0]
    for seed in range(150):
        real, a = pair(seed)
        found = compare(a, 1.03 * a, real, lambda x, y: frechet_unbiased(x, y)[0])
        held += found.difference.holds(truth)
        if seed < 5:
            strangers = compare(a, 1.03 * a, real, lambda x, y: frechet_unbiased(x, y)[0], paired=False).difference
            widths = [width + e.high - e.low for width, e in zip(widths, (found.difference, strangers))]
    assert 132 <= held <= 150
    assert widths[0] < widths[1] / 2


def test_comparison_says_who_is_better_and_what_would_decide() -> None:
    real, good = torch.randn(500, 6, generator=rng(1)), torch.randn(500, 6, generator=rng(2))
    worse = compare(good, 1.5 * good, real, kernel_statistic)
    assert worse.better == "a"
    assert worse.p < 1e-6
    assert worse.difference.high < 0
    assert compare(1.5 * good, good, real, kernel_statistic).better == "b"
    close = compare(good, torch.randn(500, 6, generator=rng(3)), real, kernel_statistic)
    assert close.better == "undecided"
    assert close.num_to_decide is not None
    assert close.num_to_decide > 500
    same = compare(good, good, real, kernel_statistic)
    assert (same.p, same.better, same.num_to_decide) == (1.0, "undecided", None)


def test_num_to_decide_has_the_power_that_it_claims() -> None:
    """A difference of known size, measured at that number: found in 80 % of draws, within 4 standard errors."""
    def statistic(values: Tensor) -> Statistic:
        return Statistic(float(values.mean()), values - values.mean(), values.new_empty(0))

    def decide(num: int, seed: int):
        noise = torch.randn(2, num, generator=rng(seed), dtype=torch.float64)
        return compare_statistics(statistic(noise[0]), statistic(noise[1] + 0.2), smaller_is_better=True)
    needed = round(sum(1 / decide(20_000, s).num_to_decide for s in range(5)) ** -1 * 5)
    found = sum(decide(needed, 100 + seed).better == "a" for seed in range(300))
    assert abs(found / 300 - 0.8) < 4 * (0.8 * 0.2 / 300) ** 0.5 + 0.02


def test_holm_keeps_false_alarms_of_a_whole_table_rare() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    alarms = loose = 0
    for seed in range(300):
        values = torch.randn(200, generator=rng(seed))
        slices = {str(k): torch.arange(k, 200, 8) for k in range(8)}
        table = slice_table(values, slices)
        alarms += any(row.notable for row in table)
        loose += any(row.p < 0.05 for row in table)
    assert alarms / 300 < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5
    assert loose / 300 > 0.2


def test_slices_find_the_word_that_fails() -> None:
    captions = [f"a {'red' if i % 2 else 'blue'} {'cube' if i % 3 else 'sphere'}" for i in range(300)]
    values = torch.randn(300, generator=rng(1)) - torch.tensor([2.0 if "sphere" in caption else 0.0 for caption in captions])
    slices = slices_by_word(captions)
    assert sorted(slices) == ["blue", "cube", "red", "sphere"]
    table = slice_table(values, slices)
    assert table[0].name == "sphere"
    assert [row.name for row in table if row.notable] == ["sphere", "cube"]
    assert table[0].difference.holds(-2.0)
    assert table[0].p_table >= table[0].p


def test_two_models_differ_on_one_slice() -> None:
    captions = ["red cube", "blue cube", "green sphere", "blue sphere"] * 60
    a = torch.randn(240, generator=rng(1))
    b = a + 0.1 * torch.randn(240, generator=rng(2)) + torch.tensor([0.3 if "sphere" in caption else 0.0 for caption in captions])
    table = {row.name: row for row in compare_slices(a, b, slices_by_word(captions))}
    assert table["sphere"].notable
    assert table["sphere"].mean.holds(-0.3)
    assert not table["cube"].notable


def test_wrong_levels_and_too_few_values_are_refused() -> None:
    for call in (lambda: mean_interval(torch.zeros(1)), lambda: proportion(0, 0), lambda: mean_interval(torch.zeros(5), 1.5)):
        with pytest.raises(UsageError):
            call()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_words_that_do_not_matter_are_rarely_marked_though_scores_take_few_values(share: float) -> None:
    """Slices in which every picture has the same score are common then, and their own variance is zero."""
    sizes = (20, 20, 22, 24, 28, 40, 120, 198)
    alarms = 0
    for seed in range(200):
        draw = rng(seed)
        values = (torch.rand(200, generator=draw) < share).double()
        alarms += any(row.notable for row in slice_table(values, {f"{k}": torch.randperm(200, generator=draw)[:n] for k, n in enumerate(sizes)}))
    assert alarms / 200 < 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5


def test_pairs_of_models_that_do_not_differ_are_rarely_marked_though_few_scores_differ() -> None:
    alarms = 0
    for seed in range(400):
        draw = rng(seed)
        gaps = torch.randint(-1, 2, (20,), generator=draw).double() * (torch.rand(20, generator=draw) < 0.5)
        alarms += compare_slices(gaps, torch.zeros(20), {"all": torch.arange(20)})[0].notable
    assert alarms / 400 < 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    same = compare_slices(torch.full((20,), 0.5), torch.zeros(20), {"all": torch.arange(20)})[0]
    assert 2.0 ** (1 - 20) < same.p < 1e-4                  # more than the signs of 20 pairs can say is not claimed


def test_the_bootstrap_of_a_statistic_that_often_ties_is_even_where_the_data_are() -> None:
    """Half of the resamples that give the value itself count as below it: else a median of whole numbers would look biased."""
    values = torch.tensor([-3.0, -2, -2, -1, -1, 0, 0, 0, 1, 1, 2, 2, 3])
    found = bootstrap(values, torch.median, level=0.9)
    assert (found.value, found.low, found.high) == (0.0, -1.0, 1.0)
