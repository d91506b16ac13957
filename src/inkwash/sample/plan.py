"""A sampler is a table. Each row says where to evaluate the network once, and which linear mix follows.

A sample carries four things: x (what the network sees next), base (an anchor that multi-stage methods return to), h_0..h_3 (remembered
slopes, newest first) and, in a row that asks for it, fresh noise z. A row evaluates x0 = E[x0 | x] at its level, pushes the slope
h_0 = s_x * x + s_0 * x0 and then replaces x and base by linear mixes of (x, base, h_0..h_3, z), all taken before the replacement.
Every sampler of the field is such a table: its coefficients depend on the levels alone, never on the sample, so they are computed in
float64 before anything is sampled, and samples in different rows of different tables advance together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.core.spacing import Path, Point
from inkwash.value import Value

HISTORY = 4                                                # slopes that a sample remembers
COLUMNS = 3 + HISTORY                                      # x, base, h_0..h_3, z


@dataclass(frozen=True)
class Mix:
    """x * `x` + base * `base` + sum_j h_j * `h[j]` + z * `z`. Mixes add up and scale, so that methods can be composed."""

    x: float = 0.0
    base: float = 0.0
    h: tuple[float, ...] = ()
    z: float = 0.0

    def __add__(self, other: Mix) -> Mix:
        h = tuple(a + b for a, b in zip_longest(self.h, other.h, fillvalue=0.0))
        return Mix(self.x + other.x, self.base + other.base, h, self.z + other.z)

    def __rmul__(self, factor: float) -> Mix:
        return Mix(factor * self.x, factor * self.base, tuple(factor * weight for weight in self.h), factor * self.z)

    def columns(self) -> list[float]:
        """The weights of (x, base, h_0..h_3, z), COLUMNS of them."""
        assert len(self.h) <= HISTORY, f"a mix of {len(self.h)} slopes, {HISTORY} are kept"
        return [self.x, self.base, *self.h, *[0.0] * (HISTORY - len(self.h)), self.z]


KEEP = Mix(base=1.0)
X0 = (0.0, 1.0)                                            # the slope that is the denoised image itself


@dataclass(frozen=True)
class Stage:
    """One evaluation of the network at `level`, the slope h_0 = slope[0] * x + slope[1] * x0, and the mixes that replace x and base."""

    level: Point
    next: Mix
    base: Mix = KEEP
    slope: tuple[float, float] = X0


class Plan(NamedTuple):
    """A compiled sampler: K rows of float64 coefficients on the host. Rows are network evaluations."""

    gauge: Gauge
    alpha: Tensor                                          # (K + 1,) levels of the rows, and the level at which the plan ends
    sigma: Tensor                                          # (K + 1,)
    slope: Tensor                                          # (K, 2)
    weights: Tensor                                        # (K, 2, COLUMNS) mixes of the next x and of the next base

    @property
    def rows(self) -> int:
        """The number of network evaluations, K."""
        return len(self.slope)

    @property
    def start(self) -> Level:
        """The level () at which the plan expects its x."""
        return Level(self.alpha[0], self.sigma[0])

    @property
    def end(self) -> Level:
        """The level () of what the plan makes; sigma = 0 when that is a clean image."""
        return Level(self.alpha[-1], self.sigma[-1])

    @property
    def draws(self) -> int:
        """The number of rows that ask for fresh noise."""
        return int((self.weights[:, :, -1] != 0).any(dim=1).sum())

    @classmethod
    def compile(cls, gauge: Gauge, stages: list[Stage], end: Point) -> Plan:
        """Stages as arrays. Every coefficient is finite."""
        levels = torch.tensor([*(stage.level for stage in stages), end], dtype=torch.float64)                 # (K + 1, 2)
        slope = torch.tensor([stage.slope for stage in stages], dtype=torch.float64).reshape(-1, 2)
        weights = torch.tensor([[stage.next.columns(), stage.base.columns()] for stage in stages], dtype=torch.float64)
        weights = weights.reshape(-1, 2, COLUMNS)
        assert bool(slope.isfinite().all() and weights.isfinite().all() and levels.isfinite().all()), "a plan with an infinite coefficient"
        return cls(gauge, levels[:, 0].contiguous(), levels[:, 1].contiguous(), slope, weights)


class Sampler(Value, ABC):
    """A rule that writes a table for any path. `order`, `exact` and `stochastic` are claims that the theorem tests check."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Order of convergence in the number of steps: of the trajectory, or of the marginals where the sampler is stochastic; 0 = none claimed."""

    @property
    def exact(self) -> bool:
        """Whether data that is one point stays exactly on x = alpha * x0 + sigma * eps, with eps of unit variance, after every step."""
        return True

    @property
    def stochastic(self) -> bool:
        """Whether any row asks for fresh noise."""
        return False

    @abstractmethod
    def stages(self, path: Path) -> Iterator[Stage]:
        """The rows, in order."""

    def plan(self, path: Path) -> Plan:
        """The table for `path`."""
        return Plan.compile(path.gauge, list(self.stages(path)), path.points[-1])
