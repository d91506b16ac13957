"""How strong guidance is along the way: a factor m(lam) that scales w - 1, and the interval where guidance acts at all.

An axis turns lam into a place in [0, 1], 0 at data and 1 at noise. The angle (2/pi) atan(sigma/alpha) needs nothing else; it is the time
of the cosine schedule. A strength is a function of that place: constant, a straight ramp, or half a cosine. Guidance limited to a middle
interval of noise levels keeps diversity and saves evaluations (Kynkaanniemi et al. 2024, arXiv:2404.07724).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from inkwash.core.schedule import Schedule
from inkwash.errors import UsageError
from inkwash.value import Value


def _exp(lam: float) -> float:
    """e^lam without overflow."""
    return math.exp(lam) if lam < 700 else math.inf


class Axis(Value, ABC):
    """lam -> place in [0, 1]: 0 is data, 1 is noise."""

    @abstractmethod
    def __call__(self, lam: float) -> float: ...


@dataclass(frozen=True, repr=False)
class AngleAxis(Axis):
    """(2/pi) atan(sigma/alpha), whatever the schedule."""

    def __call__(self, lam: float) -> float:
        return 2 / math.pi * math.atan(_exp(-lam))


@dataclass(frozen=True, repr=False)
class LamAxis(Axis):
    """Straight in lam: 1 at `noise` and below, 0 at `data` and above."""

    noise: float = -5.0
    data: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and math.isfinite(self.data) and self.noise < self.data):
            raise UsageError("bad_value", f"LamAxis needs finite noise < data, got {self.noise!r} and {self.data!r}")

    def __call__(self, lam: float) -> float:
        return min(max((self.data - lam) / (self.data - self.noise), 0.0), 1.0)


@dataclass(frozen=True, repr=False)
class TimeAxis(Axis):
    """The time t of a schedule."""

    schedule: Schedule

    def __call__(self, lam: float) -> float:
        return min(max(float(self.schedule.time(torch.tensor(lam, dtype=torch.float64))), 0.0), 1.0)


class Strength(Value, ABC):
    """lam -> m, with w = 1 + (scale - 1) m."""

    @abstractmethod
    def __call__(self, lam: float) -> float: ...


@dataclass(frozen=True, repr=False)
class ConstantStrength(Strength):
    """m = 1 everywhere."""

    def __call__(self, lam: float) -> float:
        return 1.0


FULL = ConstantStrength()
ANGLE = AngleAxis()


@dataclass(frozen=True, repr=False)
class _Ramp(Strength):
    """m = data (1 - s) + noise s, with s = `share` of the place on the axis."""

    noise: float = 1.0
    data: float = 0.0
    axis: Axis = ANGLE

    def __post_init__(self) -> None:
        for name in ("noise", "data"):
            value = getattr(self, name)
            if isinstance(value, str | bool) or not 0 <= value < math.inf:
                raise UsageError("bad_value", f"{type(self).__name__}.{name} is {value!r}; expected a finite factor of at least 0")
        if not isinstance(self.axis, Axis):
            raise UsageError("bad_value", f"{type(self).__name__}.axis is {self.axis!r}; expected AngleAxis(), LamAxis(...) or TimeAxis(...)")

    def __call__(self, lam: float) -> float:
        share = self.share(self.axis(lam))
        return self.data * (1 - share) + self.noise * share

    @abstractmethod
    def share(self, place: float) -> float:
        """From 0 at data to 1 at noise."""


@dataclass(frozen=True, repr=False)
class RampStrength(_Ramp):
    """Straight along the axis, from `noise` at the first step to `data` at the last."""

    def share(self, place: float) -> float:
        return place


@dataclass(frozen=True, repr=False)
class CosineStrength(_Ramp):
    """Half a cosine along the axis: flat at both ends, `noise` at the first step and `data` at the last."""

    def share(self, place: float) -> float:
        return (1 - math.cos(math.pi * place)) / 2


@dataclass(frozen=True, repr=False)
class Interval(Value):
    """The levels where guidance acts, both ends included, in `unit` "sigma" (sigma/alpha) or "lam" (log alpha/sigma)."""

    units: ClassVar[tuple[str, ...]] = ("sigma", "lam")
    low: float
    high: float
    unit: str = "sigma"

    def __post_init__(self) -> None:
        if self.unit not in self.units:
            raise UsageError("bad_value", f"Interval.unit is {self.unit!r}; expected one of {', '.join(self.units)}")
        if not self.low < self.high:
            raise UsageError("bad_value", f"Interval({self.low!r}, {self.high!r}) is empty; give low < high in {self.unit}")

    def __contains__(self, lam: float) -> bool:
        return self.low <= (_exp(-lam) if self.unit == "sigma" else lam) <= self.high
