"""Network + prediction + gauge = E[x0 | x]: the only place where networks and diffusion mathematics meet.

The network sees unit-variance data (x0 / sigma_data) in its own gauge, one noise coordinate per sample and the condition, and returns y.
Levels come in any gauge; x is rescaled to the network's by one factor, and the prediction's 2x2 system gives x0.
In the VP gauge the rescaling is c_in of Karras et al. 2022 (arXiv 2206.00364), equation 7.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.coordinate import Angle, Coordinate
from inkwash.core.level import Gauge, Level, rescale
from inkwash.core.prediction import Prediction


class Output(NamedTuple):
    """What the network said, and where: y and x (B, ...) float32 in the network's units, level (B,) in its gauge."""

    y: Tensor
    x: Tensor
    level: Level


class Denoiser(nn.Module):
    """x0 = denoiser(x, level, cond): the mean of the clean images from which x may have come.

    x (B, ...) float32; level.alpha and level.sigma (B,) or () float64 in any gauge; returns float32 (B, ...).
    """

    def __init__(self, network: nn.Module, prediction: Prediction, gauge: Gauge = Gauge.VP, *, sigma_data: float = 1.0,
                 coordinate: Coordinate | None = None) -> None:
        super().__init__()
        if not (math.isfinite(sigma_data) and sigma_data > 0):
            raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}")
        self.network = network
        self.prediction = prediction
        self.gauge = gauge
        self.sigma_data = sigma_data
        self.coordinate: Coordinate = coordinate or Angle()

    def own(self, x: Tensor, level: Level) -> tuple[Tensor, Level]:
        """x and its level in the network's units and gauge."""
        return rescale(x, Level(level.alpha * self.sigma_data, level.sigma), self.gauge)

    def output(self, x: Tensor, level: Level, cond: Cond) -> Output:
        """The network's raw prediction y beside the x and level that it was given, all in its own units: what losses compare with targets."""
        x, level = self.own(x, level)
        dtype = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), x.dtype)
        noise = self.coordinate(level).to(device=x.device, dtype=torch.float32).expand(x.shape[0])
        y = self.network(x.to(dtype), noise, cond.to(x.device, dtype))
        return Output(y.to(x.dtype), x, level)

    def forward(self, x: Tensor, level: Level, cond: Cond) -> Tensor:
        out = self.output(x, level, cond)
        return self.prediction.solve(out.level, out.x, out.y) * self.sigma_data
