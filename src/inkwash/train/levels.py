"""Which noise levels a run trains on: a map from uniform numbers to t in [0, 1].

Every sample has its own u ~ U(0, 1), a function of its position in the run, and t = F^-1(u) for the chosen distribution. Stratified
levels put exactly one sample into each of the G equal parts of the global batch, which lowers the variance of the loss (Kingma et al.
2021, arXiv 2107.00630, use a shared offset for the same purpose).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.value import Value


class Levels(Value, ABC):
    """A distribution of t over (0, 1]."""

    @abstractmethod
    def times(self, u: Tensor, position: Tensor, total: int) -> Tensor:
        """t (B,) float64 from u (B,) uniform on [0, 1); the samples stand at `position` (B,) of a global batch of `total`."""


@dataclass(frozen=True, repr=False)
class UniformLevels(Levels):
    """t ~ U(low, 1)."""

    low: float = 0.0
    aliases = {"uniform": {}}

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1:
            raise UsageError("bad_value", f"low must be in [0, 1), got {self.low}")

    def times(self, u: Tensor, position: Tensor, total: int) -> Tensor:
        return self.low + (1 - self.low) * (1 - u)                                      # (B,) in (low, 1]


@dataclass(frozen=True, repr=False)
class DiscreteLevels(Levels):
    """t = k / num_steps with k uniform on 1..num_steps, both ends included (Ho et al. 2020, arXiv 2006.11239, algorithm 1)."""

    num_steps: int = 1000
    aliases = {"discrete": {}}

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise UsageError("bad_value", f"num_steps must be at least 1, got {self.num_steps}")

    def times(self, u: Tensor, position: Tensor, total: int) -> Tensor:
        k = (u * self.num_steps).floor().clamp(max=self.num_steps - 1) + 1
        return k / self.num_steps


@dataclass(frozen=True, repr=False)
class StratifiedLevels(Levels):
    """t = (i + u) / G for sample i of a global batch of G: uniform over a batch, and evenly spread within it."""

    aliases = {"stratified": {}}

    def times(self, u: Tensor, position: Tensor, total: int) -> Tensor:
        return (position + 1 - u) / total


@dataclass(frozen=True, repr=False)
class LogitNormalLevels(Levels):
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, arXiv 2403.03206, section 3.1); stratified within the global batch."""

    mean: float = 0.0
    std: float = 1.0
    aliases = {"logit_normal": {}}

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise UsageError("bad_value", f"std must be above 0, got {self.std}")

    def times(self, u: Tensor, position: Tensor, total: int) -> Tensor:
        even = ((position + u) / total).clamp(1e-7, 1 - 1e-7)                           # (B,)
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(even))
