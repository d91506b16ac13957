"""The same small network trained to predict eps, x0, v and velocity of one process; part of `curves.py`.

Only the target differs: data, noise, levels, initial weights and the plain squared error are the same. The process is the discrete cosine
one, whose last level multiplies an error of eps by 2.0e4 on its way to x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.analytic import Mixture
from inkwash.core.level import Level
from inkwash.core.prediction import X0, Eps, Prediction, V, Velocity
from inkwash.core.schedule import DiscreteCosine
from inkwash.core.spacing import Trailing
from inkwash.denoiser import Denoiser
from inkwash.nn.embed import GlobalEmbedding
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

STEPS, BATCH, WIDTH, COUNT = 1200, 256, 96, 2000


class Plane(nn.Module):
    """An MLP on (B, 2), modulated by the noise level."""

    def __init__(self, width: int = WIDTH, layers: int = 2) -> None:
        super().__init__()
        self.embed = GlobalEmbedding(width, features=64)
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 2)
        self.told = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        embedding, h = F.silu(self.embed(noise, cond)), self.first(x)
        for told, hidden in zip(self.told, self.hidden):
            scale, shift = told(embedding).chunk(2, dim=1)
            h = h + hidden(F.silu(h * (1 + scale) + shift))
        return self.last(F.silu(h))


def trained(prediction: Prediction, data: Mixture, seed: int) -> Denoiser:
    """A denoiser of float32 trained for STEPS steps."""
    torch.manual_seed(seed)
    denoiser, schedule = Denoiser(Plane(), prediction), DiscreteCosine()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    generator = torch.Generator().manual_seed(1000 + seed)
    for _ in range(STEPS):
        x0 = data.sample(BATCH, generator).float()
        eps = torch.randn(BATCH, 2, generator=generator)
        level = schedule((torch.randint(0, 1000, (BATCH,), generator=generator) + 1) / 1000)
        out = denoiser.output(level.mix(x0, eps), level, Cond.none(BATCH))
        loss = (out.y - prediction.target(level, x0, eps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return denoiser.eval()


@torch.no_grad()
def predictions(data: Mixture, frechet: Callable[[Tensor, Mixture], float], sliced: Callable[[Tensor, Tensor], float]) -> dict[str, Any]:
    """Distances of samples from data by prediction, and the error of x0 at the last level, over two seeds of training."""
    schedule = DiscreteCosine()
    exact = data.sample(COUNT, torch.Generator().manual_seed(7))
    found: dict[str, Any] = {"process": repr(schedule), "training steps": STEPS, "batch": BATCH, "sampler": "ddim", "steps": 50, "samples": COUNT}
    for name, prediction in (("eps", Eps()), ("x0", X0()), ("v", V()), ("velocity", Velocity())):
        runs = []
        for seed in (0, 1):
            with torch.enable_grad():
                denoiser = trained(prediction, data, seed)
            plan = parse("ddim", Sampler).plan(Trailing().levels(schedule, 50))  # type: ignore[type-abstract]
            start = prior(plan, (COUNT, 2), 1, 0)

            def denoise(x: Tensor, level: Level, index: Tensor, denoiser: Denoiser = denoiser) -> Tensor:
                return denoiser(x[0], Level(*(part.expand(COUNT) for part in level)), Cond.none(COUNT))[None]

            x = run(denoise, [Program(plan, 1, 0, start)])[0].clean.x.double()
            first = denoise(start[None], Level(plan.alpha[:1], plan.sigma[:1]), torch.zeros(1))[0].double()
            runs.append({"frechet": frechet(x, data), "sliced": sliced(x, exact),
                         "first_x0_error": float((first - data.denoise(start.double(), plan.start)).square().mean().sqrt())})
        found[name] = {key: [float(f"{run[key]:.4g}") for run in runs] for key in runs[0]}
    return found
