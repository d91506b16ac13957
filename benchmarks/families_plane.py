"""A GAN, a VAE and a diffusion model of the same mixture in the plane, with the same training compute; part of `families.py`.

Here every question has an exact answer: which modes there are, how dense the data is, what its entropy is. Compute is counted, not timed: the
multiplications of one training step, and as many steps as a common budget pays for.

    GAN        hinge loss (Lim & Ye 2017, arXiv 1705.02894), one step of each player in turn (Goodfellow et al. 2014, arXiv 1406.2661)
    VAE        the evidence bound with a learned variance of the decoder (Kingma & Welling 2013, arXiv 1312.6114)
    diffusion  v-prediction on the cosine process, 50 evaluations of dpmpp_2m to sample
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from curves import sliced
from modes import Coverage, coverage, grid, losses, samples
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from toy_predictions import Plane

from inkwash.core.analytic import Mixture
from inkwash.core.level import Level
from inkwash.core.prediction import V
from inkwash.core.schedule import Cosine
from inkwash.denoiser import Denoiser
from inkwash.evaluate.denoisers.likelihood import log_likelihood

BUDGET = 1.2e12                                             # multiplications and additions of one training
BATCH, WIDTH, NOISE, CHECKS, CHECKED, COUNT = 512, 128, 8, 10, 2000, 10_000
Sample = Callable[[int, int], Tensor]                      # (count, seed) -> (count, 2) float64


def mlp(width_in: int, width_out: int, width: int = WIDTH, layers: int = 3) -> nn.Sequential:
    """Linear layers of `width` with SiLU between them."""
    widths = [width_in, *[width] * layers]
    hidden = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(width, width_out))


class Family(NamedTuple):
    """A model in training: `step(x0)` makes one update, `sample` draws from it, `log_prob` gives nats (B,) of points (B, 2)."""

    step: Callable[[Tensor], None]
    sample: Sample
    log_prob: Callable[[Tensor, Tensor], Tensor]           # (points, held-out points to choose settings with)
    parts: tuple[nn.Module, ...]


def adam(module: nn.Module, lr: float, beta: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=lr, betas=(beta, 0.99), fused=True)


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def gan(seed: int) -> Family:
    """Its density is that of a kernel estimate on its samples, with the width that suits held-out data best: it has none of its own."""
    torch.manual_seed(seed)
    make, judge = mlp(NOISE, 2), mlp(2, 1)
    makes, judges = adam(make, 3e-4, 0.5), adam(judge, 3e-4, 0.5)
    noise = torch.Generator().manual_seed(seed)

    def step(x0: Tensor) -> None:
        fake = make(torch.randn(len(x0), NOISE, generator=noise))
        update(F.relu(1 - judge(x0)).mean() + F.relu(1 + judge(fake.detach())).mean(), judges)
        update(-judge(make(torch.randn(len(x0), NOISE, generator=noise))).mean(), makes)

    def sample(count: int, seed: int) -> Tensor:
        return make(torch.randn(count, NOISE, generator=torch.Generator().manual_seed(seed))).double()

    def log_prob(points: Tensor, held_out: Tensor) -> Tensor:
        made = sample(COUNT, 77)
        best = max((0.01 * 1.5**i for i in range(12)), key=lambda width: float(kernel(made, held_out, width).mean()))
        return kernel(made, points, best)

    return Family(step, sample, log_prob, (make, judge))


def kernel(made: Tensor, points: Tensor, width: float) -> Tensor:
    """log density (B,) at points of equal Gaussians on the samples."""
    square = torch.cdist(points, made).square()
    return (-0.5 * square / width**2).logsumexp(1) - math.log(len(made)) - math.log(2 * math.pi * width**2)


def vae(seed: int) -> Family:
    """Its density is the importance-weighted bound with 2000 draws, tight in two dimensions (Burda et al. 2015, arXiv 1509.00519)."""
    torch.manual_seed(seed)
    encode, decode = mlp(2, 4), mlp(2, 2)
    width = nn.Parameter(torch.tensor(-1.0))               # log of the decoder's deviation
    both = nn.ModuleList([encode, decode])
    optimizer = torch.optim.Adam([*both.parameters(), width], lr=1e-3, fused=True)
    noise = torch.Generator().manual_seed(seed)

    def gaussian(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        return (-0.5 * ((x - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def terms(x0: Tensor, draws: int, noise: torch.Generator) -> Tensor:
        mean, log_std = encode(x0).chunk(2, dim=-1)                                     # (B, 2) each
        z = mean + log_std.exp() * torch.randn(draws, *mean.shape, generator=noise)     # (draws, B, 2)
        zero = torch.zeros_like(z)
        return gaussian(x0, decode(z), width) + gaussian(z, zero, zero) - gaussian(z, mean, log_std)

    def step(x0: Tensor) -> None:
        update(-terms(x0, 1, noise).mean(), optimizer)

    def sample(count: int, seed: int) -> Tensor:
        z, eps = torch.randn(2, count, 2, generator=torch.Generator().manual_seed(seed))
        return (decode(z) + width.exp() * eps).double()

    def log_prob(points: Tensor, held_out: Tensor) -> Tensor:
        noise, draws = torch.Generator().manual_seed(5), 2000
        return torch.cat([terms(some.float(), draws, noise).logsumexp(0) - math.log(draws) for some in points.split(100)]).double()

    return Family(step, sample, log_prob, (encode, decode))


def diffusion(seed: int) -> Family:
    """Its density is that of its probability flow, with the exact divergence."""
    torch.manual_seed(seed)
    denoiser, schedule = Denoiser(Plane(WIDTH, 2), V()), Cosine()
    optimizer = adam(denoiser, 2e-3)
    noise = torch.Generator().manual_seed(seed)

    def step(x0: Tensor) -> None:
        update(losses_on(denoiser, x0, noise).mean(), optimizer)

    def losses_on(denoiser: Denoiser, x0: Tensor, noise: torch.Generator) -> Tensor:
        return losses(denoiser, Given(x0), schedule, len(x0), noise)[0]

    def log_prob(points: Tensor, held_out: Tensor) -> Tensor:
        return log_likelihood(denoiser, schedule, points.float(), steps=40).log_prob

    return Family(step, lambda count, seed: samples(denoiser, schedule, count, seed), log_prob, (denoiser,))


class Given:
    """A batch that is already drawn, in the place of a mixture; its best denoiser is not asked for."""

    def __init__(self, x0: Tensor) -> None:
        self.x0 = x0.double()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.x0

    def denoise(self, x: Tensor, level: Level) -> Tensor:
        return x


FAMILIES: dict[str, Callable[[int], Family]] = {"GAN": gan, "VAE": vae, "diffusion": diffusion}


def cost(family: Family, x0: Tensor) -> int:
    """Multiplications and additions of one training step, counted while it runs."""
    with FlopCounterMode(display=False) as counter:
        family.step(x0)
    return counter.get_total_flops()


def batches(data: Mixture, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(10_000 + seed)
    while True:
        yield data.sample(BATCH, generator).float()


def trained(name: str, data: Mixture, seed: int, budget: float = BUDGET) -> dict[str, Any]:
    """One training and all that is measured of it."""
    source = batches(data, seed)
    num_steps = int(budget // cost(FAMILIES[name](seed), next(source)))
    family, exact = FAMILIES[name](seed), data.sample(COUNT, torch.Generator().manual_seed(3))
    distances, seconds = [], 0.0
    for step in range(1, num_steps + 1):
        x0, began = next(source), time.process_time()
        family.step(x0)
        seconds += time.process_time() - began
        if step % (num_steps // CHECKS) == 0:
            with torch.no_grad():
                distances.append(sliced(family.sample(CHECKED, step), exact[:CHECKED]))
    with torch.no_grad():
        before = time.perf_counter()
        made = family.sample(COUNT, 1)
        per_sample = (time.perf_counter() - before) / COUNT
        fresh, held_out = (data.sample(2000, torch.Generator().manual_seed(k)) for k in (11, 12))
        log_prob = float(family.log_prob(fresh, held_out).mean())
    met: Coverage = coverage(made, data)
    late = distances[len(distances) // 2:]
    return {"seed": seed, "steps": num_steps, "modes": met.modes, "divergence": met.divergence, "near": met.near, "distance": sliced(made, exact),
            "late_swing": max(late) / min(late), "nats": -log_prob, "microseconds": 1e6 * per_sample, "training_sec": seconds,
            "parameters": sum(p.numel() for part in family.parts for p in part.parameters())}


def plane(seeds: int, have: dict[str, Any], keep: Callable[[dict[str, Any]], None], budget: float = BUDGET) -> dict[str, Any]:
    """All families, each from `seeds` seeds; `entropy` is the least possible number of nats. Trainings that `have` holds are not repeated, and `keep`
    is called with everything after each of the others."""
    data = grid()
    clean = Level(torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    entropy = -float(data.log_prob(data.sample(100_000, torch.Generator().manual_seed(0)), clean).mean())
    two = [data.sample(COUNT, torch.Generator().manual_seed(k)) for k in (3, 4)]
    before = have if have.get("budget") == budget else {}
    found: dict[str, Any] = {"budget": budget, "batch": BATCH, "samples": COUNT, "entropy": entropy, "distance_of_data": sliced(two[1], two[0]),
                             **{name: list(before.get(name, [])) for name in FAMILIES}}
    for seed in range(seeds):
        for name in FAMILIES:
            if all(run["seed"] != seed for run in found[name]):
                found[name].append(trained(name, data, seed, budget))
                print(name, json.dumps(found[name][-1]), flush=True)
                keep(found)
    return found
