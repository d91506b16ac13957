"""Curves of quality against cost and against guidance, on data whose answers are known.

Everything but the last two parts uses the exact denoiser of a mixture in the plane, so that what is measured is the sampler or the guidance and
no network. Writes a dated JSON file and a readable table beside this one: `python benchmarks/curves.py [--out FILE.json] [--model mini]`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from curves_text import tables
from mini_guidance import mini_guidance
from speed import machine
from torch import Tensor
from toy_predictions import predictions

from inkwash.core.analytic import Mixture
from inkwash.core.level import Level
from inkwash.core.prediction import X0, Eps, Prediction, V, Velocity
from inkwash.core.schedule import Cosine, DiscreteCosine, Linear, Schedule
from inkwash.core.spacing import Trailing
from inkwash.guide import CFG
from inkwash.nn.unet import UNetConfig
from inkwash.sample import Plan, Program, Sampler, prior, run
from inkwash.value import alias_table, parse

F64 = torch.float64
CLEAN = Level(torch.ones((), dtype=F64), torch.zeros((), dtype=F64))
ANGLES = torch.arange(8, dtype=F64) * math.pi / 4
RING = Mixture(torch.tensor([0.2, 0.05, 0.15, 0.1, 0.2, 0.05, 0.15, 0.1], dtype=F64), 1.4 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1),
               torch.full((8, 2), 0.01, dtype=F64))
CLASSES = Mixture(torch.tensor([0.4, 0.35, 0.25], dtype=F64), torch.tensor([[1.0, 0.4], [-0.9, 0.6], [0.1, -1.0]], dtype=F64),
                  torch.tensor([[0.20, 0.12], [0.12, 0.20], [0.25, 0.15]], dtype=F64))
BUDGETS = (5, 10, 20, 50, 100)
LONG = ("ddpm", "ddim", "euler_a", "sde", "dpmpp_2m", "heun")
COUNT = 4000
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.5, 10.0, 15.0, 20.0)


def amplification() -> dict[str, Any]:
    """|d x0 / d y| of every prediction by t: what an error of the network becomes in x0. Table entry 1000 is t = 1."""
    times = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    schedules: dict[str, Schedule] = {"linear": Linear(), "cosine": DiscreteCosine()}
    kinds: dict[str, Prediction] = {"eps": Eps(), "x0": X0(), "v": V(), "velocity": Velocity()}
    return {"t": times, **{name: {kind: [rounded(abs(float(p.gain(schedule(t))))) for t in times] for kind, p in kinds.items()}
                           for name, schedule in schedules.items()}}


def rounded(number: float) -> float:
    """Four significant digits."""
    return float(f"{number:.4g}")


def frechet(x: Tensor, data: Mixture) -> float:
    """Frechet distance of the Gaussian fitted to x (N, 2) from the one of the data: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))."""
    covariance = (data.weights[:, None, None] * (torch.diag_embed(data.variances) + data.means[:, :, None] * data.means[:, None])).sum(0)
    covariance = covariance - torch.outer(data.mean(), data.mean())
    product = torch.linalg.eigvals(torch.cov(x.T) @ covariance).real.clamp(min=0).sqrt().sum()
    return float((x.mean(0) - data.mean()).square().sum() + torch.trace(torch.cov(x.T)) + torch.trace(covariance) - 2 * product)


def sliced(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced Wasserstein-1 distance of two sets (N, 2) of one size: mean over directions of the mean distance of sorted projections."""
    angle = torch.arange(directions, dtype=F64) * math.pi / directions
    lines = torch.stack([angle.cos(), angle.sin()])
    return float(((x @ lines).sort(0).values - (y @ lines).sort(0).values).abs().mean())


def astray(x: Tensor) -> float:
    """Share of x (N, 2) further than 4 deviations from every mode of RING; 3e-4 of exact samples are."""
    away = ((x[:, None] - RING.means).square() / RING.variances).sum(-1).min(1).values
    return float((away > 16).double().mean())


def drawn(data: Mixture, seed: int, count: int = COUNT) -> Tensor:
    return data.sample(count, torch.Generator().manual_seed(seed))


def sampled(plan: Plan, denoise: Callable[[Tensor, Level], Tensor], count: int = COUNT) -> Tensor:
    """`count` samples (count, 2) of one plan, all as one program, so that noise is drawn for all at once."""
    x = prior(plan, (count, 2), 1, 0).double()
    return run(lambda x, level, index: denoise(x[0], level)[None], [Program(plan, 1, 0, x)])[0].clean.x


def plan_within(sampler: Sampler, schedule: Schedule, budget: int) -> Plan | None:
    """The plan of the most steps that makes at most `budget` evaluations."""
    low, high = 0, budget
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sampler.plan(Trailing().levels(schedule, middle)).rows <= budget else (low, middle - 1)
    return sampler.plan(Trailing().levels(schedule, low)) if low else None


def quality() -> dict[str, Any]:
    """Frechet and sliced Wasserstein distance of samples from exact data against evaluations, for every sampler."""
    schedule, exact = Linear(), drawn(RING, 7)
    floor = drawn(RING, 8)
    found: dict[str, Any] = {"process": repr(schedule), "spacing": "trailing", "samples": COUNT,
                             "exact samples": {"frechet": rounded(frechet(floor, RING)), "sliced": rounded(sliced(floor, exact)),
                                               "astray": rounded(astray(floor))}, "samplers": {}}
    for name, sampler in alias_table(Sampler).items():  # type: ignore[type-abstract]
        rows = []
        for budget in (*BUDGETS, *((1000,) if name in LONG else ())):
            plan = plan_within(sampler, schedule, budget)
            if plan is not None:
                x = sampled(plan, RING.denoise)
                rows.append({"budget": budget, "nfe": plan.rows, "frechet": rounded(frechet(x, RING)), "sliced": rounded(sliced(x, exact)),
                             "astray": rounded(astray(x))})
        found["samplers"][name] = rows
    return found


def step_ratio() -> dict[str, Any]:
    """Time of 20, 100 and 1000 DDIM steps of a small U-Net, over the ratio of steps. Processor seconds, for the machine may be shared."""
    network = UNetConfig(in_channels=8, out_channels=8, widths=(32, 48), attention=(False, True), cross=(False, False)).build().eval()
    found: dict[str, Any] = {}
    with torch.inference_mode():
        def once(steps: int) -> tuple[float, float]:
            plan = parse("ddim", Sampler).plan(Trailing().levels(Linear(), steps))  # type: ignore[type-abstract]
            program = Program(plan, 0, 0, prior(plan, (8, 16, 16), 0, 0))
            began = time.perf_counter(), time.process_time()
            run(lambda x, level, index: network(x, 1000 * level.sigma.float(), {}), [program])
            return time.perf_counter() - began[0], time.process_time() - began[1]

        once(20)
        times = {steps: [once(steps) for _ in range(repeats)] for steps, repeats in ((20, 9), (100, 5), (1000, 1))}
    least = {steps: (min(wall for wall, _ in runs), min(cpu for _, cpu in runs)) for steps, runs in times.items()}
    for steps in (100, 1000):
        wall, cpu = (a / b for a, b in zip(least[steps], least[20]))
        found[f"{steps} over 20"] = {"steps": steps / 20, "wall": rounded(wall), "processor": rounded(cpu)}
    found["processor seconds"] = {str(steps): rounded(cpu) for steps, (_, cpu) in least.items()}
    return found


def tilted(data: Mixture, k: int, w: float, count: int = COUNT) -> Tensor:
    """`count` samples (count, 2) of p(x) p(k|x)^w, normalised, from a fine grid."""
    axis = torch.linspace(-6, 6, 601, dtype=F64)
    grid = torch.cartesian_prod(axis, axis)
    weight = data.log_prob(grid, CLEAN) + w * data.posterior(grid, CLEAN)[:, k].clamp(min=1e-300).log()
    generator = torch.Generator().manual_seed(11)
    chosen = torch.multinomial((weight - weight.max()).exp(), count, replacement=True, generator=generator)
    return grid[chosen] + (torch.rand(count, 2, generator=generator, dtype=F64) - 0.5) * (axis[1] - axis[0])


def guidance() -> dict[str, Any]:
    """Adherence, diversity and bias of classifier-free guidance with exact scores, against both conventions of the scale.

    adherence: mean p(c | x0) of the samples. diversity: mean distance of two samples, over that at w = 1. shift: distance of the mean from the
    class's, in its deviations. outside: share of samples further from the origin than 99.9 % of the data. bias: sliced Wasserstein distance from
    p(x) p(c|x)^w, which guidance is often said to sample; its own error at w = 1, where both are exact, is the floor.
    """
    count, k = 2000, 0
    plan = parse("dpmpp_2m", Sampler).plan(Trailing().levels(Cosine(), 60))  # type: ignore[type-abstract]
    own, pairs = CLASSES.component(k), torch.randperm(count, generator=torch.Generator().manual_seed(2))
    reach = drawn(CLASSES, 3, 20_000).norm(dim=1).quantile(0.999)
    rows = []
    for w in SCALES:
        def denoise(x: Tensor, level: Level, w: float = w) -> Tensor:
            parts = {"cond": own, "null": CLASSES}
            return sum((branch.weight * parts[branch.cond].denoise(x, level) for branch in CFG(w).branches(0.0)), torch.zeros_like(x))

        x = sampled(plan, denoise, count)
        rows.append({"w": w, "w_extra": w - 1, "nfe": plan.rows * len(CFG(w).branches(0.0)),
                     "adherence": rounded(float(CLASSES.posterior(x, CLEAN)[:, k].mean())),
                     "spread": float((x - x[pairs]).norm(dim=1).mean()),
                     "shift": rounded(float(((x.mean(0) - own.means[0]) / own.variances[0].sqrt()).norm())),
                     "outside": rounded(float((x.norm(dim=1) > reach).double().mean())),
                     "bias": rounded(sliced(x, tilted(CLASSES, k, w, count)))})
    plain = next(row["spread"] for row in rows if row["w"] == 1)
    return {"process": repr(Cosine()), "sampler": "dpmpp_2m", "steps": 60, "samples": count,
            "rows": [{**{key: value for key, value in row.items() if key != "spread"}, "diversity": rounded(row["spread"] / plain)} for row in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write; default benchmarks/DATE-curves.json")
    parser.add_argument("--model", default="mini", help="the model whose guidance is measured, if it is there")
    options = parser.parse_args()
    result: dict[str, Any] = {"command": "python benchmarks/curves.py", "machine": machine()}
    parts: dict[str, Callable[[], Any]] = {"amplification": amplification, "quality": quality, "steps": step_ratio, "guidance": guidance,
                                           "predictions": lambda: predictions(RING, frechet, sliced), "model": lambda: mini_guidance(options.model)}
    spent = {}
    for name, part in parts.items():
        began = time.process_time()
        result[name] = part()
        spent[name] = round(time.process_time() - began, 1)
        print(f"{name}: {spent[name]} processor seconds")
    result["processor seconds"] = spent
    path = options.out or Path(__file__).parent / f"{result['machine']['date']}-curves.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(tables(result))
    print(f"written to {os.path.relpath(path)} and {path.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
