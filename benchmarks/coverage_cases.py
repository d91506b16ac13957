"""Data with known truths for `coverage.py`: Gaussians for the Frechet and cubic kernel distances, finite populations for CMMD and captions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from inkwash.evaluate.metrics.clipscore import clip_score
from inkwash.evaluate.metrics.cmmd import cmmd
from inkwash.evaluate.metrics.compare import compare, compare_statistics
from inkwash.evaluate.metrics.frechet import distance, frechet_distance, frechet_unbiased
from inkwash.evaluate.metrics.interval import Estimate, bootstrap, mean_interval, proportion
from inkwash.evaluate.metrics.kernel import kernel_distance, kernel_statistic
from inkwash.evaluate.metrics.memorization import difference, memorization
from inkwash.evaluate.metrics.moments import Moments
from inkwash.evaluate.metrics.neighbours import held, neighbour_statistics, precision_recall_density_coverage, radii

F64 = torch.float64


class Case(NamedTuple):
    title: str
    names: tuple[str, ...]
    draw: Callable[[Generator], tuple[Estimate, ...]]
    truth: tuple[float, ...] | None                        # None: the mean over other draws
    known_to_fail: bool = False
    most: int = 10**6                                      # repetitions, of a slow case


class Normal(NamedTuple):
    mean: Tensor
    cov: Tensor

    def draw(self, num: int, rng: Generator) -> Tensor:
        return (torch.randn(num, len(self.mean), generator=rng, dtype=F64) @ torch.linalg.cholesky(self.cov).T + self.mean).float()


def normals(dim: int, apart: float, seed: int = 1) -> tuple[Normal, Normal]:
    """Two Gaussians with spectra over 1.5 decades; `apart` 0 makes them equal, 1 far apart in mean, scale and axes."""
    rng = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=F64))[0]
    values = torch.logspace(0, -1.5, dim, dtype=F64)
    turn = torch.linalg.qr(torch.eye(dim, dtype=F64) + 0.5 * apart * torch.randn(dim, dim, generator=rng, dtype=F64) / dim**0.5)[0]
    turned = turn @ axes if apart else axes
    mean = 0.3 * apart * torch.randn(dim, generator=rng, dtype=F64)
    return Normal(torch.zeros(dim, dtype=F64), (axes * values) @ axes.T), Normal(mean, (turned * values * (1 + 0.4 * apart)) @ turned.T)


def cubic_mean(a: Normal, b: Normal) -> float:
    """E (x'y / D + 1)^3 for independent x ~ a, y ~ b, by their moments of order one to three."""
    def third(p: Normal) -> Tensor:
        m, c = p.mean, p.cov
        crossed = torch.einsum("i,jk->ijk", m, c) + torch.einsum("j,ik->ijk", m, c) + torch.einsum("k,ij->ijk", m, c)
        return torch.einsum("i,j,k->ijk", m, m, m) + crossed
    second = [p.cov + torch.outer(p.mean, p.mean) for p in (a, b)]
    d = len(a.mean)
    return float(1 + 3 * (a.mean @ b.mean) / d + 3 * (second[0] * second[1]).sum() / d**2 + (third(a) * third(b)).sum() / d**3)


def fd(dim: int, num: int, apart: float, num_real: int | None = None) -> Case:
    real, fake = normals(dim, apart)
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        return (frechet_distance(real.draw(num_real or num, rng), fake.draw(num, rng)).unbiased,)
    return Case(f"Gaussians, D = {dim}, real N = {num_real or num}, N = {num}, apart {apart}", ("FD, extrapolated",), draw,
                (distance(real.mean, real.cov, fake.mean, fake.cov),))


def fd_bootstrap(dim: int, num: int, apart: float) -> Case:
    """What is not done: percentiles of the resampled biased distance."""
    real, fake = normals(dim, apart)
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        x, y = real.draw(num, rng), fake.draw(num, rng)
        def plain(a: Tensor, b: Tensor) -> float:
            p, q = Moments.of(a), Moments.of(b)
            return distance(p.mean(), p.covariance(), q.mean(), q.covariance())
        values = torch.tensor([plain(*(z[torch.randint(num, (num,), generator=rng)] for z in (x, y))) for _ in range(100)], dtype=F64)
        return (Estimate(plain(x, y), float(values.quantile(0.025)), float(values.quantile(0.975)), num),)
    return Case(f"Gaussians, D = {dim}, N = {num}, apart {apart}", ("FD, plain, percentile bootstrap",), draw,
                (distance(real.mean, real.cov, fake.mean, fake.cov),), known_to_fail=True)


def kid(dim: int, num: int, apart: float) -> Case:
    real, fake = normals(dim, apart)
    truth = cubic_mean(real, real) + cubic_mean(fake, fake) - 2 * cubic_mean(real, fake)
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        return (kernel_distance(real.draw(num, rng), fake.draw(num, rng)),)
    return Case(f"Gaussians, D = {dim}, N = {num}, apart {apart}", ("KID",), draw, (truth,))


def atoms(num: int, dim: int, seed: int) -> Tensor:
    rows = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return rows / rows.norm(dim=1, keepdim=True)


def population_cmmd(num: int, apart: float) -> Case:
    places = atoms(40, 16, 2)
    rng = torch.Generator().manual_seed(3)
    p = torch.rand(40, generator=rng, dtype=F64)
    q = p * torch.exp(apart * torch.randn(40, generator=rng, dtype=F64))
    p, q = p / p.sum(), q / q.sum()
    kernel = torch.exp(-torch.cdist(places, places).square() / 200)
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        x, y = (places[torch.multinomial(w, num, True, generator=rng)].float() for w in (p, q))
        return (cmmd(x, y),)
    return Case(f"40 unit vectors, N = {num}, apart {apart}", ("CMMD",), draw, (float(1000 * (p - q) @ kernel @ (p - q)),))


def captions(num: int) -> Case:
    text = atoms(60, 24, 4)
    image = text + 1.2 * atoms(60, 24, 5)
    image = image / image.norm(dim=1, keepdim=True)
    own = 100 * (image * text).sum(1)
    truth = (float(own.mean()), float(own.mean() - 100 * (image.mean(0) * text.mean(0)).sum()))
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        i = torch.randint(60, (num,), generator=rng)
        found = clip_score(image[i].float(), text[i].float())
        return found.score, found.gap
    return Case(f"60 pairs, N = {num}", ("CLIP score", "CLIP score above wrong pairs"), draw, truth)


def modes(num: int, dim: int, weights: tuple[float, ...], noise: float, rng: Generator) -> Tensor:
    centres = 3 * atoms(len(weights), dim, 6)
    which = torch.multinomial(torch.tensor(weights), num, True, generator=rng)
    return (centres[which] + (0.3 + noise) * torch.randn(num, dim, generator=rng, dtype=F64)).float()


EVEN, DROPPED = (1.0,) * 8, (1.0, 1.0, 1.0, 1.0, 1.0, 0.02, 0.02, 0.0)


def prdc(num: int, num_real: int, weights: tuple[float, ...], noise: float, title: str, k: int = 5) -> Case:
    """Truths of precision, density and recall are those of the support at hand, by 10000 fresh points; intervals are shifted to make them zero."""
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        x, y = modes(num_real, 6, EVEN, 0, rng), modes(num, 6, weights, noise, rng)
        found = precision_recall_density_coverage(x, y, k)
        fresh = modes(10_000, 6, weights, noise, rng), modes(10_000, 6, EVEN, 0, rng)
        of_fake, of_real = (held(z, radii(z, k), points)[0] for z, points in zip((x, y), fresh))
        given = [float(values.mean()) for values in ((of_fake > 0).double(), (of_real > 0).double(), of_fake / k)]
        return *(moved(e, t) for e, t in zip(found[:3], given)), found.coverage
    names = ("precision - truth given the real set", "recall - truth given the other set", "density - truth given the real set", "coverage")
    return Case(f"8 modes, {title}, real N = {num_real}, N = {num}, k = {k}", names, draw, None, most=400)


def moved(estimate: Estimate, truth: float) -> Estimate:
    """Shifted so that its truth is zero."""
    return estimate._replace(value=estimate.value - truth, low=estimate.low - truth, high=estimate.high - truth)


def paired(name: str, num: int, apart: float) -> Case:
    """B is A with a change that depends on the sample: the differences of pairs are much smaller than those of strangers."""
    real, fake = normals(16, 0.5)
    stretch = 1 + apart * torch.linspace(-1, 1, 16, dtype=F64)
    other = Normal(fake.mean * stretch + 0.1 * apart, fake.cov * torch.outer(stretch, stretch))
    if name == "FD":
        truths = [distance(real.mean, real.cov, x.mean, x.cov) for x in (fake, other)]
    else:
        truths = [cubic_mean(real, real) + cubic_mean(x, x) - 2 * cubic_mean(real, x) for x in (fake, other)]
    statistic = (lambda x, y: frechet_unbiased(x, y)[0]) if name == "FD" else kernel_statistic
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        a = fake.draw(num, rng)
        b = (a.double() * stretch + 0.1 * apart).float()
        return (compare(a, b, real.draw(num, rng), statistic).difference,)
    return Case(f"pairs of Gaussians, D = 16, N = {num}, apart {apart}", (f"{name}, A - B",), draw, (truths[0] - truths[1],))


def paired_neighbours(num: int, num_real: int, alike: bool) -> Case:
    """B is A with noise on each sample, or, `alike`, other samples of the same model: then all truths are zero. Truths of precision and density are
    those of the real set at hand, by 10000 fresh pairs."""
    def pairs(count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        a = modes(count, 6, EVEN, 0.1, rng)
        return a, modes(count, 6, EVEN, 0.1, rng) if alike else a + 0.15 * torch.randn(a.shape, generator=rng)
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        real, (a, b) = modes(num_real, 6, EVEN, 0, rng), pairs(num, rng)
        of_a, of_b = (neighbour_statistics(real, z) for z in (a, b))
        found = {name: compare_statistics(of_a[name], of_b[name], smaller_is_better=False).difference for name in of_a}
        if not alike:
            more, less = (held(real, radii(real, 5), z)[0] for z in pairs(10_000, rng))
            found["precision"] = moved(found["precision"], float((more > 0).double().mean() - (less > 0).double().mean()))
            found["density"] = moved(found["density"], float((more - less).mean()) / 5)
        return tuple(found.values())
    given = "" if alike else " - truth given the real set"
    names = (f"precision, A - B{given}", "recall, A - B", f"density, A - B{given}", "coverage, A - B")
    return Case(f"8 modes, pairs, {'two draws of one model, ' if alike else ''}real N = {num_real}, N = {num}", names, draw,
                (0.0,) * 4 if alike else None, most=400)


def copies(num: int, share: float) -> Case:
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        train, held, fake = (modes(n, 8, EVEN, 0, rng) for n in (600, 400, num))
        copied = torch.rand(num, generator=rng) < share
        near = train[torch.randint(600, (num,), generator=rng)] + 0.01 * torch.randn(num, 8, generator=rng)
        found = memorization(torch.where(copied[:, None], near, fake), train, held, k=10)
        return (found.excess,)
    return Case(f"{100 * share:g} % near copies among N = {num}", ("memorized, above false alarms",), draw, (share * (1 - 4 / 401),))


def shares(p: float, num: int) -> Case:
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        return (proportion(int((torch.rand(num, generator=rng) < p).sum()), num),)
    return Case(f"a share of {100 * p:g} %, N = {num}", ("share",), draw, (p,))


def share_difference(p: float, q: float, num: int) -> Case:
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        return (difference(*(proportion(int((torch.rand(num, generator=rng) < w).sum()), num) for w in (p, q))),)
    return Case(f"shares of {100 * p:g} % and {100 * q:g} %, N = {num}", ("difference of shares",), draw, (p - q,))


def average(num: int) -> Case:
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        return (mean_interval(torch.rand(num, generator=rng)),)
    return Case(f"uniform values, N = {num}", ("mean",), draw, (0.5,))


def quantile_of_normal(num: int) -> Case:
    def draw(rng: Generator) -> tuple[Estimate, ...]:
        seed = int(torch.randint(10**6, (), generator=rng))
        return (bootstrap(torch.randn(num, generator=rng).exp(), lambda x: x.log().std(), resamples=500, seed=seed),)
    return Case(f"log-normal values, N = {num}", ("deviation of logarithms, BCa bootstrap",), draw, (1.0,))


CASES: dict[str, Callable[[], Case]] = {
    "mean": partial(average, 30), "share-30": partial(shares, 0.3, 200), "share-2": partial(shares, 0.02, 300),
    "share-difference": partial(share_difference, 0.05, 0.01, 400), "bca": partial(quantile_of_normal, 200),
    "fd-far-16": partial(fd, 16, 1000, 1.0), "fd-near-16": partial(fd, 16, 1000, 0.2), "fd-few-real": partial(fd, 16, 1500, 0.5, 500),
    "fd-far-64": partial(fd, 64, 1000, 1.0), "fd-near-64": partial(fd, 64, 1000, 0.2), "fd-equal-16": partial(fd, 16, 1000, 0.0),
    "fd-naive": partial(fd_bootstrap, 16, 500, 0.5),
    "kid-far": partial(kid, 16, 400, 1.0), "kid-near": partial(kid, 16, 400, 0.3), "kid-equal": partial(kid, 16, 400, 0.0),
    "cmmd-far": partial(population_cmmd, 400, 0.8), "cmmd-near": partial(population_cmmd, 400, 0.2), "cmmd-equal": partial(population_cmmd, 400, 0.0),
    "clip": partial(captions, 200),
    "prdc-good": partial(prdc, 500, 500, EVEN, 0.0, "equal sets"), "prdc-modes": partial(prdc, 500, 500, DROPPED, 0.0, "modes dropped"),
    "prdc-quality": partial(prdc, 500, 500, EVEN, 0.15, "blurred"), "prdc-few": partial(prdc, 400, 1200, EVEN, 0.1, "blurred", 3),
    "paired-fd": partial(paired, "FD", 800, 0.1), "paired-kid": partial(paired, "KID", 400, 0.1),
    "paired-neighbours": partial(paired_neighbours, 400, 400, False), "paired-alike": partial(paired_neighbours, 400, 400, True),
    "copies": partial(copies, 500, 0.05), "copies-none": partial(copies, 500, 0.0),
}
assert math.isclose(cubic_mean(*normals(3, 0.0)), 1 + 3 * float(normals(3, 0.0)[0].cov.square().sum()) / 9)
