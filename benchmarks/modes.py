"""Does a trained denoiser find every mode, and how near does it come to the best possible loss? A mixture of 25 Gaussians knows both.

The data is a 5 x 5 grid of Gaussians in the plane, scaled to unit variance. The least possible loss is that of the exact denoiser
E[x0 | x]; what the trained network has above it, on the same draws, is all that training left undone. Samples are counted by their nearest
mode: every mode must be there, and KL(counts | uniform) small. Stable training proves neither (a GAN is the usual counterexample), so both
are measured, for several seeds.

    python benchmarks/modes.py [--seeds 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from toy_predictions import Plane

from inkwash.cond import Cond
from inkwash.core.analytic import Mixture
from inkwash.core.level import Level
from inkwash.core.prediction import Prediction, V
from inkwash.core.schedule import Cosine, Schedule
from inkwash.core.spacing import LogSNR
from inkwash.denoiser import Denoiser
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

SIDE, DEVIATION = 5, 0.1                                   # modes along one side at distance 1; their standard deviation
STEPS, BATCH, WIDTH, LAYERS = 2000, 1024, 128, 4
SAMPLES, DRAWS = 10_000, 200_000


class Coverage(NamedTuple):
    """Modes that got at least a tenth of their share, KL(counts | uniform) in nats, and the share of samples within 4 deviations of a mode."""

    modes: int
    divergence: float
    near: float


def grid(side: int = SIDE, deviation: float = DEVIATION) -> Mixture:
    """A grid of Gaussians with equal weights, scaled to unit variance."""
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    means = torch.cartesian_prod(places, places)                                        # (K, 2)
    scale = math.sqrt(float(places.square().mean()) + deviation**2)
    return Mixture(torch.full((len(means),), 1 / len(means), dtype=torch.float64), means / scale,
                   torch.full_like(means, (deviation / scale) ** 2))


def trained(data: Mixture, seed: int, prediction: Prediction, schedule: Schedule, steps: int = STEPS, batch: int = BATCH) -> Denoiser:
    """The average of a network trained on `steps` fresh batches with the simple loss."""
    torch.manual_seed(seed)
    denoiser = Denoiser(Plane(WIDTH, LAYERS), prediction)
    average = copy.deepcopy(denoiser)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3, weight_decay=0.0, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2.0 * (1 - step / steps)))
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(steps):
        loss = losses(denoiser, data, schedule, batch, generator)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(denoiser.parameters()), 0.005)
    return average.eval()


def losses(denoiser: Denoiser, data: Mixture, schedule: Schedule, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squared errors (count,) of the network and of the exact denoiser on the same draws, with t ~ U(0, 1)."""
    prediction = denoiser.prediction
    x0 = data.sample(count, generator)
    eps = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    even = (torch.arange(count, dtype=torch.float64) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    level = schedule(1 - even)
    x = level.mix(x0, eps)
    out = denoiser.output(x.float(), level, Cond.none(count))
    best = data.denoise(x, level)
    row = Level(level.alpha[:, None], level.sigma[:, None])
    a, b = (part.reshape(-1, 1) for part in prediction.coefficients(level))
    target = a * x0 + b * eps
    ideal = a * best + b * (x - row.alpha * best) / row.sigma
    return (out.y - target.float()).square().mean(1), (ideal - target).square().mean(1)


@torch.no_grad()
def excess(denoiser: Denoiser, data: Mixture, schedule: Schedule, seed: int = 99) -> dict[str, float]:
    """Loss, least possible loss, and their ratio less one with its standard error, on DRAWS fresh draws."""
    mine, ideal = losses(denoiser, data, schedule, DRAWS, torch.Generator().manual_seed(seed))
    ratio = float(mine.double().mean() / ideal.mean())
    return {"loss": float(mine.mean()), "optimum": float(ideal.mean()), "excess": ratio - 1,
            "standard_error": float((mine.double() - ratio * ideal).std() / (DRAWS**0.5 * ideal.mean()))}


@torch.no_grad()
def samples(denoiser: Denoiser, schedule: Schedule, count: int, seed: int, steps: int = 50) -> Tensor:
    """(count, 2) float64 samples by dpmpp_2m."""
    plan = parse("dpmpp_2m", Sampler).plan(LogSNR().levels(schedule, steps))  # type: ignore[type-abstract]

    def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
        return denoiser(x[0], Level(*(part.expand(count) for part in level)), Cond.none(count))[None]

    return run(denoise, [Program(plan, seed, 0, prior(plan, (count, 2), seed, 0))])[0].clean.x.double()


def coverage(x: Tensor, data: Mixture) -> Coverage:
    """Which modes samples x (N, 2) belong to, by the nearest mean."""
    distance = torch.cdist(x, data.means)                                               # (N, K)
    nearest, deviation = distance.argmin(1), float(data.variances[0, 0].sqrt())
    share = torch.bincount(nearest, minlength=len(data.means)).double() / len(x)
    divergence = float((share[share > 0] * (share[share > 0] * len(share)).log()).sum())
    return Coverage(int((share > 0.1 / len(share)).sum()), divergence, float((distance.min(1).values < 4 * deviation).double().mean()))


def study(seeds: int, steps: int = STEPS) -> dict[str, Any]:
    """One training per seed."""
    data, schedule, prediction = grid(), Cosine(), V()
    found = []
    for seed in range(seeds):
        began = time.perf_counter()
        denoiser = trained(data, seed, prediction, schedule, steps)
        met = coverage(samples(denoiser, schedule, SAMPLES, seed), data)
        found.append({"seed": seed, **met._asdict(), **excess(denoiser, data, schedule), "seconds": round(time.perf_counter() - began, 1)})
        print(json.dumps(found[-1]), flush=True)
    return {"data": f"{SIDE} x {SIDE} Gaussians, deviation {DEVIATION} of their distance", "process": repr(schedule), "prediction": repr(prediction),
            "network": f"MLP, {LAYERS} layers of {WIDTH}", "steps": steps, "batch": BATCH, "samples": SAMPLES, "draws": DRAWS, "runs": found,
            "all_modes": sum(run["modes"] == SIDE**2 for run in found), "command": f"python benchmarks/modes.py --seeds {seeds} --steps {steps}",
            "torch": torch.__version__, "python": platform.python_version(), "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = study(given.seeds, given.steps)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
