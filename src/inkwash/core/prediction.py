"""What the network estimates: y = a * x0 + b * eps, two numbers at every level.

Together with x = alpha * x0 + sigma * eps this is a 2x2 system, whose solution for x0 serves every prediction:

    x0 = (b x - sigma y) / (alpha b - sigma a),      d x0 / d y = -sigma / (alpha b - sigma a)  (the gain)

An error in y is multiplied by the gain: for eps it is sigma / alpha, 157 at the end of the linear schedule; for v it never exceeds 1.
Where the determinant vanishes (eps or score at pure noise) the prediction says nothing about x0, or is infinite, and is refused.
Sources: Ho et al. 2020 (2006.11239); Salimans & Ho 2022 (2202.00512); Song et al. 2021 (2011.13456); Karras et al. 2022 (2206.00364).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.core.level import Level, broadcast
from inkwash.core.schedule import Schedule
from inkwash.errors import UsageError
from inkwash.value import Value


class Prediction(Value, ABC):
    """Two numbers (a, b) at every level: y = a * x0 + b * eps."""

    @abstractmethod
    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        """(a, b), each (...,) like level.alpha. Raises UsageError `singular` where they are infinite."""

    def target(self, level: Level, x0: Tensor, eps: Tensor) -> Tensor:
        """What a network is trained towards, y = a * x0 + b * eps (B, ...)."""
        a, b = self.coefficients(level)
        return broadcast(a, x0) * x0 + broadcast(b, x0) * eps

    def solve(self, level: Level, x: Tensor, y: Tensor) -> Tensor:
        """x0 (B, ...) from the noisy x and the prediction y. Raises UsageError `singular` where y does not determine x0."""
        a, b = self.coefficients(level)
        determinant = level.alpha * b - level.sigma * a
        self._refuse(determinant == 0, level)
        return broadcast(b / determinant, x) * x - broadcast(level.sigma / determinant, x) * y

    def gain(self, level: Level) -> Tensor:
        """d x0 / d y (...,): how much an error of the network is amplified in x0. Infinite where y does not determine x0."""
        a, b = self.coefficients(level)
        return -level.sigma / (level.alpha * b - level.sigma * a)

    def _refuse(self, where: Tensor, level: Level) -> None:
        if bool(where.any()):
            lam = level.lam.expand(where.shape)[where].flatten()[0]
            raise UsageError("singular", f"{type(self).__name__} prediction is singular at lam = {float(lam):g} "
                                         f"(alpha/sigma = {float(lam.exp()):g}); use v or x0 prediction there, or keep away from that end")


@dataclass(frozen=True, repr=False)
class Eps(Prediction):
    """y = eps (Ho et al. 2020)."""

    aliases = {"eps": {}}

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


@dataclass(frozen=True, repr=False)
class X0(Prediction):
    """y = x0."""

    aliases = {"x0": {}}

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)

    def solve(self, level: Level, x: Tensor, y: Tensor) -> Tensor:
        return y

    def gain(self, level: Level) -> Tensor:
        return torch.ones_like(level.alpha)


@dataclass(frozen=True, repr=False)
class V(Prediction):
    """y = (alpha * eps - sigma * x0) / sqrt(alpha^2 + sigma^2) (Salimans & Ho 2022), the same number in every gauge."""

    aliases = {"v": {}}

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        norm = torch.hypot(level.alpha, level.sigma)
        return -level.sigma / norm, level.alpha / norm


@dataclass(frozen=True, repr=False)
class Score(Prediction):
    """y = grad log p(x) = -eps / sigma (Song et al. 2021); infinite where sigma = 0."""

    aliases = {"score": {}}

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        self._refuse(level.sigma == 0, level)
        return torch.zeros_like(level.alpha), -1 / level.sigma


@dataclass(frozen=True, repr=False)
class Velocity(Prediction):
    """y = eps - x0, the velocity dx/dt of rectified flow with t = 1 at noise (Liu et al. 2022)."""

    aliases = {"velocity": {}, "flow": {}}

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(level.alpha), torch.ones_like(level.alpha)


@dataclass(frozen=True, repr=False)
class EDM(Prediction):
    """y = (x0 - c_skip x) / c_out of Karras et al. 2022, equation 7: a = sigma / (sd r), b = -sd alpha / r, r = sqrt(sigma^2 + sd^2 alpha^2).

    With unit data (sd = 1, which is what a Denoiser feeds) this is -v.
    """

    sigma_data: float = 1.0
    aliases = {"edm": {}}

    def coefficients(self, level: Level) -> tuple[Tensor, Tensor]:
        r = torch.hypot(level.sigma, self.sigma_data * level.alpha)
        return level.sigma / (self.sigma_data * r), -self.sigma_data * level.alpha / r


def require_solvable(prediction: Prediction, schedule: Schedule) -> None:
    """Raises UsageError `zero_snr_eps` when the prediction does not determine x0 at the schedule's terminal level.

    At zero terminal SNR x is pure noise: predicting that noise (or the score) says nothing of the image.
    """
    level = schedule(1.0)
    gain = prediction.gain(level)
    if not bool(torch.isfinite(gain)):
        raise UsageError("zero_snr_eps", f"{type(prediction).__name__} prediction cannot be used with {schedule!r}: its last level has zero "
                                         "signal-to-noise, where the noise says nothing of the image; use prediction V(), Velocity() or X0()")
