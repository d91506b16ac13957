"""Changes of the guided x0 that are not a weighted sum: thresholds and rescaling.

Guidance with a large w leaves the range of the data. A static threshold clips. A dynamic threshold takes a percentile s of |x0|, at least
the bound, clips to [-s, s] and divides by s, so that saturated pixels move inwards (Saharia et al. 2022, arXiv:2205.11487, section 2.3).
Both are meaningful only where the range of clean values is known: in pixel space. Latents have no such range, so an unbound threshold
refuses to run; `bind` fills the range in, and whoever writes `bounds` in the text vouches for it.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.value import Value

Bounds = tuple[float, float] | None


class Adjustment(Value, ABC):
    """x0 (1, ...) of the weighted sum and the reference branch (1, ...) -> x0 (1, ...)."""

    @abstractmethod
    def __call__(self, x0: Tensor, reference: Tensor) -> Tensor: ...

    def bind(self, bounds: Bounds) -> Self:
        """The same adjustment for clean values in `bounds`. Raises UsageError `unknown_range` for None where the range is needed."""
        return self


class _Threshold(Adjustment):
    """A threshold to `bounds` = (low, high); None is filled in by `bind`."""

    bounds: Bounds

    def __post_init__(self) -> None:
        if self.bounds is not None and not (isinstance(self.bounds, tuple) and len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise UsageError("bad_value", f"{type(self).__name__}.bounds is {self.bounds!r}; expected (low, high) with low < high")

    def bind(self, bounds: Bounds) -> Self:
        if self.bounds is not None:
            return self
        if bounds is None:
            raise self._refusal()
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return type(self)(**{**fields, "bounds": bounds})

    def _refusal(self) -> UsageError:
        name = type(self).__name__
        return UsageError("unknown_range", f"{name} needs the range of clean values, and latents have none that is known; "
                                           f"use Rescale, or write {name}(bounds=(low, high)) if you know the range")

    def ends(self) -> tuple[float, float]:
        if self.bounds is None:
            raise self._refusal()
        return self.bounds


@dataclass(frozen=True, repr=False)
class StaticThreshold(_Threshold):
    """x0 clipped to the bounds."""

    aliases: ClassVar = {"static_threshold": {}}
    bounds: Bounds = None

    def __call__(self, x0: Tensor, reference: Tensor) -> Tensor:
        return x0.clamp(*self.ends())


@dataclass(frozen=True, repr=False)
class DynamicThreshold(_Threshold):
    """s = max(percentile of |x0|, 1); clip to [-s, s]; divide by s. In units of the bounds; the percentile is over one whole sample."""

    aliases: ClassVar = {"dynamic_threshold": {}}
    percentile: float = 0.995
    bounds: Bounds = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None and not all(map(math.isfinite, self.bounds)):
            raise UsageError("bad_value", f"DynamicThreshold.bounds is {self.bounds!r}; expected finite ones, which values are measured in")
        if not 0 < self.percentile <= 1:
            raise UsageError("bad_value", f"DynamicThreshold.percentile is {self.percentile!r}; expected a number above 0, at most 1")

    def __call__(self, x0: Tensor, reference: Tensor) -> Tensor:
        low, high = self.ends()
        middle, half = (high + low) / 2, (high - low) / 2
        unit = (x0 - middle) / half
        s = _quantile(unit.abs().flatten(1), self.percentile).clamp(min=1.0)  # (B,)
        s = s.reshape(-1, *(1,) * (x0.ndim - 1))
        return unit.clamp(-s, s) / s * half + middle


def _quantile(values: Tensor, q: float) -> Tensor:
    """The q-quantile of each row (B, n) -> (B,), between neighbours linearly, without the size limit of `torch.quantile`."""
    ordered = values.sort(dim=1).values
    place = q * (values.shape[1] - 1)
    below = int(place)
    above = min(below + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)


@dataclass(frozen=True, repr=False)
class Rescale(Adjustment):
    """x0 (phi std(c) / std(x0) + 1 - phi), c the reference branch: the contrast of one sample is pulled back (Lin et al. 2023,
    arXiv:2305.08891, equations 15 and 16), here in the space of x0 for every prediction. phi = 0 changes nothing, to the bit.
    """

    aliases: ClassVar = {"rescale": {}}
    phi: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise UsageError("bad_value", f"Rescale.phi is {self.phi!r}; expected a number from 0 to 1")

    def __call__(self, x0: Tensor, reference: Tensor) -> Tensor:
        if self.phi == 0 or x0 is reference:
            return x0
        axes = tuple(range(1, x0.ndim))
        now = x0.std(dim=axes, keepdim=True)
        ratio = torch.where(now > 0, reference.std(dim=axes, keepdim=True) / now, 1.0)
        return x0 * (self.phi * ratio + (1 - self.phi))
