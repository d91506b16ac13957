"""How much each noise level counts in the loss: where along the SNR curve the model spends its learning budget.

A weighting is a function w_y(level) on |y - y*|^2, the squared error of whatever the network predicts. Those that are defined on the error
of x0 or of eps are converted by the prediction's gain g = d x0 / d y: |x0 - x0*|^2 = g^2 |y - y*|^2 and, at fixed x, |eps - eps*|^2 =
SNR |x0 - x0*|^2. So the same weighting gives the same loss whichever prediction the network makes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.core.level import Level
from inkwash.core.prediction import Prediction
from inkwash.errors import UsageError
from inkwash.value import Value


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UsageError("bad_value", f"{name} must be above 0 and finite, got {value}")


class Weighting(Value, ABC):
    """Weights of squared errors by noise level."""

    @abstractmethod
    def __call__(self, level: Level, prediction: Prediction) -> Tensor:
        """w_y (...,) float64: the factor of |y - y*|^2 at `level`."""


class _OnX0(Weighting):
    """Weightings that are defined on the squared error of x0."""

    @abstractmethod
    def x0(self, snr: Tensor) -> Tensor:
        """w_x0 as a function of SNR = alpha^2 / sigma^2 (...,)."""

    def __call__(self, level: Level, prediction: Prediction) -> Tensor:
        return self.x0(level.snr) * prediction.gain(level) ** 2


@dataclass(frozen=True, repr=False)
class SimpleWeight(Weighting):
    """w_y = 1: the plain squared error of the prediction (Ho et al. 2020, arXiv 2006.11239, equation 14)."""

    aliases = {"simple": {}}

    def __call__(self, level: Level, prediction: Prediction) -> Tensor:
        return torch.ones_like(level.alpha)


@dataclass(frozen=True, repr=False)
class MinSNRWeight(_OnX0):
    """w_x0 = min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556): on eps min(1, gamma / SNR)."""

    gamma: float = 5.0
    aliases = {"min_snr": {}}

    def __post_init__(self) -> None:
        _require_positive("gamma", self.gamma)

    def x0(self, snr: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma)


@dataclass(frozen=True, repr=False)
class P2Weight(_OnX0):
    """w_eps = 1 / (k + SNR)^gamma (Choi et al. 2022, arXiv 2204.00227, equation 8)."""

    gamma: float = 1.0
    k: float = 1.0
    aliases = {"p2": {}}

    def __post_init__(self) -> None:
        _require_positive("k", self.k)

    def x0(self, snr: Tensor) -> Tensor:
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True, repr=False)
class EDMWeight(_OnX0):
    """w_x0 = (s^2 + sd^2) / (s sd)^2 with s = sigma / alpha (Karras et al. 2022, arXiv 2206.00364, table 1): SNR + 1 / sd^2."""

    sigma_data: float = 1.0
    aliases = {"edm": {}}

    def __post_init__(self) -> None:
        _require_positive("sigma_data", self.sigma_data)

    def x0(self, snr: Tensor) -> Tensor:
        return snr + 1 / self.sigma_data**2


@dataclass(frozen=True, repr=False)
class SigmoidWeight(_OnX0):
    """w_eps = sigmoid(bias - log SNR) (Kingma & Gao 2023, arXiv 2303.00848, appendix; Hoogeboom et al. 2024, arXiv 2410.19324)."""

    bias: float = 0.0
    aliases = {"sigmoid": {}}

    def x0(self, snr: Tensor) -> Tensor:
        return snr * torch.sigmoid(self.bias - snr.log())
