"""Row E1: the Frechet distance against its closed form, torchmetrics and its own bias, and sums that no order of summation changes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from inkwash.errors import InkwashWarning, UsageError
from inkwash.evaluate.metrics.extrapolate import extrapolate, intercept
from inkwash.evaluate.metrics.frechet import distance, frechet, frechet_distance, frechet_statistic, frechet_unbiased, influences, transport
from inkwash.evaluate.metrics.interval import Statistic, spread
from inkwash.evaluate.metrics.kernel import kernel_statistic
from inkwash.evaluate.metrics.moments import Moments, interleave

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spd(dim: int, seed: int) -> Tensor:
    a = torch.randn(dim, 2 * dim, generator=rng(seed), dtype=F64)
    return a @ a.T / dim


def test_distance_of_commuting_gaussians_is_the_sum_over_axes() -> None:
    s, s_2, m = torch.tensor([1.0, 2.0, 0.5], dtype=F64), torch.tensor([0.3, 2.5, 0.5], dtype=F64), torch.tensor([0.1, 0.0, -2.0], dtype=F64)
    axes = torch.linalg.qr(torch.randn(3, 3, generator=rng(), dtype=F64))[0]
    found = distance(m, (axes * s**2) @ axes.T, torch.zeros(3, dtype=F64), (axes * s_2**2) @ axes.T)
    assert found == pytest.approx(float(m.square().sum() + (s - s_2).square().sum()), rel=1e-12)


def test_distance_equals_the_general_matrix_root() -> None:
    a, b, zero = spd(12, 1), spd(12, 2), torch.zeros(12, dtype=F64)
    expected = float(a.trace() + b.trace()) - 2 * float(scipy.linalg.sqrtm((a @ b).numpy()).real.trace())
    assert distance(zero, a, zero, b) == pytest.approx(expected, rel=1e-10)


def test_transport_carries_one_covariance_to_the_other() -> None:
    a, b = spd(10, 3), spd(10, 4)
    t = transport(a, b)
    assert torch.allclose(t @ a @ t, b, rtol=1e-10, atol=1e-12)


def test_influence_is_the_derivative_of_the_distance() -> None:
    real, fake = torch.randn(400, 5, generator=rng(1)), torch.randn(300, 5, generator=rng(2)) * 1.4 + 0.3
    found = frechet_statistic(real, fake)
    for side, change in (("fake", found.fake), ("real", found.real)):
        for j in (0, 7, 33):
            keep = torch.arange(len(change)) != j
            less = frechet_statistic(*((real, fake[keep]) if side == "fake" else (real[keep], fake))).value
            assert (found.value - less) * (len(change) - 1) == pytest.approx(float(change[j]), rel=0.15, abs=0.05)


def test_influence_is_the_exact_derivative_by_the_weight_of_a_sample() -> None:
    """Of FD((1 - e) P + e delta_y) at e = 0, by central differences in float64, up to a constant for all y."""
    x = torch.randn(50, 4, generator=rng(1), dtype=F64) * torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=F64)
    mean, cov, mean_2, cov_2 = x.mean(0), spd(4, 5), torch.ones(4, dtype=F64), spd(4, 6)

    def at(e: float, y: Tensor) -> float:
        off = torch.outer(y - mean, y - mean)
        return distance(mean + e * (y - mean), (1 - e) * cov + e * (1 - e) * off, mean_2, cov_2)

    slopes = torch.tensor([(at(1e-5, y) - at(-1e-5, y)) / 2e-5 for y in x], dtype=F64)
    torch.testing.assert_close(influences(x, mean, cov, mean_2, cov_2), slopes - slopes.mean(), rtol=1e-5, atol=1e-5)


def test_extrapolation_leaves_the_variance_of_a_mean_alone_and_halves_that_of_a_null() -> None:
    """A mean has no second order; of a squared mean the influences say 4 |m|^2 v / N, twice the variance where m is noise alone."""
    x, none = 3 + torch.randn(4000, 1, generator=rng(3), dtype=F64), torch.empty(0, 1, dtype=F64)

    def linear(real: Tensor, fake: Tensor) -> Statistic:
        return Statistic(float(fake.mean()), (fake - fake.mean()).flatten(), real.flatten())

    def square(real: Tensor, fake: Tensor) -> Statistic:
        return Statistic(float(fake.mean(0).square().sum()), 2 * (fake - fake.mean(0)) @ fake.mean(0), real.flatten())

    assert extrapolate(linear(none, x), linear, none, x)[1] == pytest.approx(spread(x), rel=0.02)
    found = [extrapolate(square(none, z), square, none, z) for z in (torch.randn(200, 50, generator=rng(9 + s), dtype=F64) for s in range(40))]
    truth = 2 * 50 / 200**2                                                             # Var of chi squared with 50 degrees / N
    assert sum(one[1] for one in found) / 40 == pytest.approx(truth, rel=0.2)
    assert abs(sum(one[0] for one in found) / 40) < 4 * (2 * truth / 40) ** 0.5


class Same(nn.Module):
    num_features = 6

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :6].float()


def test_agrees_with_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is in the test group; make install")
    metric = torchmetrics.FrechetInceptionDistance(feature=Same(), normalize=False, input_img_size=(3, 2, 1))
    images = [torch.randint(0, 256, (500, 3, 2, 1), generator=rng(s), dtype=torch.uint8) for s in (0, 1)]
    images[1] = images[1] // 2
    for real, batch in zip((True, False), images):
        metric.update(batch, real=real)
    ours = frechet(*(Moments.of(Same()(batch)) for batch in images))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-4)


def test_distance_of_few_samples_is_finite_and_warned_of() -> None:
    real, fake = torch.randn(20, 40, generator=rng(1)), torch.randn(15, 40, generator=rng(2))
    with pytest.warns(InkwashWarning, match="singular"):
        value = frechet(Moments.of(real), Moments.of(fake))
    x, y = (z.double() - z.double().mean(0) for z in (real, fake))
    cross = torch.linalg.svdvals(x @ y.T).sum() / (19 * 14) ** 0.5                            # tr (C C')^1/2 of singular covariances
    expected = (real.double().mean(0) - fake.double().mean(0)).square().sum() + x.square().sum() / 19 + y.square().sum() / 14 - 2 * cross
    assert value == pytest.approx(float(expected), rel=1e-6)
    assert "singular" in frechet_distance(real, fake).unbiased.note


def test_equal_sets_have_distance_zero() -> None:
    x = torch.randn(500, 8, generator=rng())
    assert frechet(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-6)


def test_extrapolation_takes_the_bias_away() -> None:
    """Equal distributions: the plain distance is far from zero, the extrapolated one is not; the points fall on a line in 1 / N."""
    found = [frechet_distance(*(torch.randn(2000, 24, generator=rng(2 * seed + side)) for side in (0, 1))) for seed in range(12)]
    plain, unbiased = (sum(getattr(one, name).value for one in found) / 12 for name in ("plain", "unbiased"))
    assert plain > 0.1
    assert abs(unbiased) < plain / 10
    assert all(one.plain.low > 0 for one in found)
    assert sum(one.unbiased.low > 0 for one in found) <= 2                              # of 12 intervals of 95 %
    assert [point.num for point in found[0].curve] == [2000, 1000, 500]
    assert intercept([1, 2, 4], [point.value for point in found[0].curve]) == pytest.approx(found[0].unbiased.value)


def test_the_unbiased_distance_has_the_extrapolated_variance() -> None:
    """Between sets of one distribution that is half of what the influences say."""
    real, fake = torch.randn(1000, 16, generator=rng(1)), torch.randn(1000, 16, generator=rng(2))
    found, whole = frechet_unbiased(real, fake)[0], frechet_statistic(real, fake)
    variance = extrapolate(whole, frechet_statistic, real, fake)[1]
    assert found.variance == pytest.approx(variance)
    assert variance == pytest.approx((spread(whole.fake) + spread(whole.real)) / 2, rel=0.25)


def test_moments_equal_mean_and_covariance() -> None:
    x = torch.randn(3000, 9, generator=rng()) * torch.logspace(-2, 2, 9) + 3
    found = Moments.of(x)
    assert torch.allclose(found.mean(), x.double().mean(0), rtol=1e-7, atol=1e-8)
    assert torch.allclose(found.covariance(), x.double().T.cov(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_merge_to_the_bits_of_one_process(world: int) -> None:
    x = torch.randn(1001, 33, generator=rng()) * 7 + 0.1
    whole = Moments.of(x)
    shards = [Moments.of(x[rank::world]) for rank in range(world)]
    for order in (shards, shards[::-1]):
        merged = order[0].merge(*order[1:])
        assert merged.num == 1001
        assert torch.equal(merged.total, whole.total)
        assert torch.equal(merged.products, whole.products)
        assert torch.equal(merged.covariance(), whole.covariance())
    assert torch.equal(interleave([x[rank::world] for rank in range(world)]), x)
    naive = sum(x[rank::2].T @ x[rank::2] for rank in range(2))
    assert not torch.equal(naive, x.T @ x), "plain sums would have passed too: the data is too easy"


WORKER = """
import os, torch, torch.distributed as dist
from inkwash.evaluate.metrics.moments import Moments
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
x = torch.randn(701, 16, generator=torch.Generator().manual_seed(3)) * 5
own = Moments.of(x[rank::world])
parts = [torch.tensor(own.num), own.total, own.products]
for part in parts:
    dist.all_reduce(part)
whole = Moments.of(x)
assert int(parts[0]) == whole.num and torch.equal(parts[1], whole.total) and torch.equal(parts[2], whole.products)
assert torch.equal(Moments(int(parts[0]), *parts[1:]).covariance(), whole.covariance())
print("equal bits on", rank)
dist.destroy_process_group()
"""


def test_two_processes_reduce_to_the_bits_of_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = [subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                                     "OMP_NUM_THREADS": str(rank + 1)}) for rank in range(2)]
    for rank, worker in enumerate(workers):
        out, err = worker.communicate(timeout=120)
        assert f"equal bits on {rank}" in out, err


@pytest.mark.parametrize(("features", "code"), [
    (torch.zeros(3), "bad_features"), (torch.zeros(3, 2, dtype=torch.int64), "bad_features"), (torch.full((3, 2), torch.nan), "bad_features"),
    (torch.full((3, 2), 2000.0), "bad_features")])
def test_wrong_features_are_refused(features: Tensor, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        Moments.of(features)
    assert caught.value.code == code


def test_sets_of_different_extractors_are_refused() -> None:
    with pytest.raises(UsageError, match="one extractor"), warnings.catch_warnings():
        frechet_distance(torch.zeros(9, 3), torch.zeros(9, 4))


@pytest.mark.parametrize("statistic", [frechet_statistic, kernel_statistic])
def test_the_influence_of_a_pair_is_what_leaving_it_out_changes(statistic: Callable[..., Statistic]) -> None:
    x = torch.randn(200, 3, generator=rng(1), dtype=F64)
    y = 0.7 * x + 0.3 + 0.4 * torch.randn(200, 3, generator=rng(2), dtype=F64)
    found = statistic(x, y, paired=True)
    rest = [torch.arange(200) != j for j in range(200)]
    left = torch.tensor([statistic(x[keep], y[keep], paired=True).value for keep in rest], dtype=F64)
    torch.testing.assert_close(found.fake, 199 * (left.mean() - left), rtol=0.1, atol=0.05 * float(found.fake.std()))
    assert len(found.real) == 0


def test_pairs_of_one_image_have_a_distance_without_bias() -> None:
    """A picture and its reconstruction are no independent draws: taken for such, both distances fall far below zero. Truths in closed form, and
    of a large set."""
    dim, share = 16, 0.9
    truth = dim * (1 - (share**2 + 0.01) ** 0.5) ** 2

    def pair(num: int, seed: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(num, dim, generator=draw)
        return x, share * x + 0.1 * torch.randn(num, dim, generator=draw)

    x, y = pair(4000, 1000)
    kernel = kernel_statistic(x, y, paired=True)
    found = [(frechet_distance(*pair(64, seed), paired=True), kernel_statistic(*pair(64, seed), paired=True).estimate()) for seed in range(60)]
    of_frechet = torch.tensor([one.unbiased.value for one, _ in found])
    of_kernel = torch.tensor([one.value for _, one in found])
    assert abs(float(of_frechet.mean()) - truth) < 4 * float(of_frechet.std()) / 60**0.5 + 0.01
    assert abs(float(of_kernel.mean()) - kernel.value) < 4 * (float(of_kernel.std()) / 60**0.5 + kernel.error)
    assert sum(one.unbiased.holds(truth) for one, _ in found) >= 50
    assert sum(one.holds(kernel.value) for _, one in found) >= 50
    same = frechet_distance(x, x, paired=True)
    assert same.unbiased.value == pytest.approx(0.0, abs=1e-6)
    assert kernel_statistic(x, x, paired=True).value == pytest.approx(0.0, abs=1e-9)
    for call in (frechet_distance, kernel_statistic):
        with pytest.raises(UsageError, match="no pairs"):
            call(x, y[:-1], paired=True)
