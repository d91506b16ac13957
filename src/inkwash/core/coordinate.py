"""The one number per sample by which a network is told the noise level.

lam itself is infinite at both ends, so a network gets a bounded or scaled function of it. All are functions of lam alone and so the same in
every gauge. Networks trained elsewhere need the coordinate that they were trained with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.core.level import Level
from inkwash.core.schedule import Schedule
from inkwash.value import Value


class Coordinate(Value, ABC):
    """level -> noise coordinate (...,) float64."""

    @abstractmethod
    def __call__(self, level: Level) -> Tensor:
        """One number per level (...,)."""


@dataclass(frozen=True, repr=False)
class Angle(Coordinate):
    """scale * (2 / pi) * atan2(sigma, alpha): 0 when clean, `scale` at pure noise, finite at both ends."""

    scale: float = 1000.0
    aliases = {"angle": {}}

    def __call__(self, level: Level) -> Tensor:
        return torch.atan2(level.sigma, level.alpha) * (self.scale * 2 / math.pi)


@dataclass(frozen=True, repr=False)
class QuarterLogSigma(Coordinate):
    """ln(sigma / alpha) / 4, c_noise of Karras et al. 2022."""

    aliases = {"edm_noise": {}}

    def __call__(self, level: Level) -> Tensor:
        return -level.lam / 4


@dataclass(frozen=True, repr=False)
class TimeIndex(Coordinate):
    """scale * t(lam) + offset on a schedule: with scale T and offset -1 the index 0..T-1 of a discrete-time checkpoint; with 1000 and 0 flow time."""

    schedule: Schedule
    scale: float = 1000.0
    offset: float = -1.0

    def __call__(self, level: Level) -> Tensor:
        return self.schedule.time(level.lam) * self.scale + self.offset
