"""A mixture in the plane with its exact teacher, and a network small enough to learn from it in seconds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.analytic import Mixture
from inkwash.core.level import Level
from inkwash.nn.embed import GlobalEmbedding
from inkwash.nn.layers import zero

MEANS = torch.tensor([[1.0, 0.6], [-1.1, 0.7], [0.1, -1.2]])
MIXTURE = Mixture(torch.tensor([0.4, 0.35, 0.25]), MEANS, torch.tensor([[0.09, 0.16], [0.16, 0.09], [0.1, 0.1]]))
CLASSES = len(MEANS)


def exact(x: Tensor, level: Level, cond: Cond) -> Tensor:
    """E[x0 | x, label]; the label CLASSES is none."""
    every = torch.stack([*(MIXTURE.component(k).denoise(x, level) for k in range(CLASSES)), MIXTURE.denoise(x, level)])
    return every[cond["label"], torch.arange(len(x))]


def null(batch: int) -> Cond:
    return Cond({"label": torch.full((batch,), CLASSES)})


class Plane(nn.Module):
    """An MLP on (B, 2), modulated by what it is told."""

    def __init__(self, width: int = 96, depth: int = 2, guidance: bool = True) -> None:
        super().__init__()
        self.embed = GlobalEmbedding(width, 0, CLASSES, 64, guidance=guidance)
        self.first = nn.Linear(2, width)
        self.told = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = zero(nn.Linear(width, 2))

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        embedding = F.silu(self.embed(noise, cond))
        h = self.first(x)
        for told, hidden in zip(self.told, self.hidden):
            scale, shift = told(embedding).chunk(2, dim=1)
            h = h + hidden(F.silu(h * (1 + scale) + shift))
        return self.last(F.silu(h))


class Draws:
    """Fresh labelled samples of MIXTURE, a function of the batch's number."""

    fingerprint = "mixture"

    def __init__(self, size: int) -> None:
        self.size = size

    def _draw(self, count: int, seed: int) -> tuple[Tensor, Cond, Tensor]:
        x0, label = MIXTURE.sample_labelled(count, torch.Generator().manual_seed(seed))
        return x0, Cond({"label": label}), torch.arange(count)

    def batch(self, micro_step: int) -> tuple[Tensor, Cond, Tensor]:
        return self._draw(self.size, micro_step)

    def held_out(self, limit: int) -> tuple[Tensor, Cond, Tensor]:
        return self._draw(1024, 2**40)

    def key(self, index: int) -> str:
        return str(index)

    def summary(self) -> str:
        return ""

    def close(self) -> None:
        pass
