"""Guidance as a table: at this lam, which (model, condition) branches are evaluated, and with which weights they add up.

Everything happens in the space of x0 = E[x0 | x]. Classifier-free guidance is u + w (c - u) = w c + (1 - w) u: weights that add up
to 1. For one x and one level every prediction is an affine image of x0, y = k x + g x0 with the same k and g for all branches, so
sum_i w_i y_i = k x + g sum_i w_i x0_i whenever sum_i w_i = 1: guiding eps, v, score, velocity or x0 is one and the same thing.

w = 1 is no guidance and costs one branch. Papers also write (1 + w') c - w' u with w' = w - 1; that convention enters only by
`CFG.from_extra`. A guidance is a value: it remembers no call, so w may depend on lam alone.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from torch import Tensor

from inkwash.core.level import Level
from inkwash.errors import UsageError, shown
from inkwash.guide.adjust import Adjustment
from inkwash.guide.strength import FULL, Interval, Strength
from inkwash.value import Value


class Branch(NamedTuple):
    """One evaluation: `weight * models[model](x, level, conds[cond])`; a scale that is `told` is added to the condition as "guidance"."""

    model: str = "main"
    cond: str = "cond"
    weight: float = 1.0
    told: float | None = None


def number(owner: Value, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Makes the field a float, or raises UsageError `bad_value` unless it is a finite number in [low, high]."""
    value = getattr(owner, name)
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max or not low <= value <= high:
        hint = "; a scale is a factor and not a percentage" if isinstance(value, str) else ""
        given = repr(value) if isinstance(value, str) else shown(value, 60)
        raise UsageError("bad_value", f"{type(owner).__name__}.{name} is {given}; expected a number from {low:g} to {high:g}{hint}")
    object.__setattr__(owner, name, float(value))


class Guidance(Value, ABC):
    """What is evaluated at a level, and how the results become one x0."""

    @abstractmethod
    def branches(self, lam: float) -> tuple[Branch, ...]:
        """At least one branch; no weight is 0. The first one is the reference that adjustments compare with."""

    def adjust(self, x0: Tensor, parts: tuple[Tensor, ...], x: Tensor, level: Level) -> Tensor:
        """x0 (1, ...) = the weighted sum of `parts`, in the order of `branches`, changed in a way that is not a weighted sum."""
        return x0

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` may change x0; where it does not, it need not be called."""
        return type(self).adjust is not Guidance.adjust

    def bind(self, bounds: tuple[float, float] | None) -> Self:
        """The same guidance for a space of clean values in `bounds`; None is a latent space of unknown range.

        Raises UsageError `unknown_range` where a threshold would need the range.
        """
        return self


@dataclass(frozen=True, repr=False)
class NoGuidance(Guidance):
    """x0 of the condition alone: one branch."""

    aliases: ClassVar = {"none": {}}
    cond: str = "cond"

    def branches(self, lam: float) -> tuple[Branch, ...]:
        return (Branch("main", self.cond, 1.0),)


@dataclass(frozen=True, repr=False)
class Contrast(Guidance):
    """u + w (c - u) of a reference c and a worse estimate u; `then` are the adjustments of the sum, in order.

    w(lam) = 1 + (scale - 1) strength(lam) inside `interval` and 1 outside, so strength 0 means no guidance and one branch.
    """

    scale: float = 7.5
    interval: Interval | None = None
    strength: Strength = FULL
    then: tuple[Adjustment, ...] = ()

    def __post_init__(self) -> None:
        number(self, "scale")
        for name, kind in (("interval", Interval | None), ("strength", Strength), ("then", tuple)):
            if not isinstance(getattr(self, name), kind):
                raise UsageError("bad_value", f"{type(self).__name__}.{name} is {getattr(self, name)!r}; expected {kind}")
        if wrong := [item for item in self.then if not isinstance(item, Adjustment)]:
            raise UsageError("bad_value", f"{type(self).__name__}.then holds {wrong[0]!r}; expected adjustments such as Rescale(0.7)")

    @abstractmethod
    def worse(self) -> tuple[str, str]:
        """(model, condition) of u."""

    def weight(self, lam: float) -> float:
        """w at this lam."""
        if self.interval is not None and lam not in self.interval:
            return 1.0
        return 1.0 + (self.scale - 1.0) * self.strength(lam)

    def branches(self, lam: float) -> tuple[Branch, ...]:
        w = self.weight(lam)
        both = (Branch("main", "cond", w), Branch(*self.worse(), 1.0 - w))
        return tuple(branch for branch in both if branch.weight != 0.0)

    def adjust(self, x0: Tensor, parts: tuple[Tensor, ...], x: Tensor, level: Level) -> Tensor:
        for adjustment in self.then:
            x0 = adjustment(x0, parts[0])
        return x0

    @property
    def adjusts(self) -> bool:
        return bool(self.then) or type(self).adjust is not Contrast.adjust

    def bind(self, bounds: tuple[float, float] | None) -> Self:
        return dataclasses.replace(self, then=tuple(item.bind(bounds) for item in self.then))


@dataclass(frozen=True, repr=False)
class CFG(Contrast):
    """Classifier-free guidance (Ho, Salimans 2022, arXiv:2207.12598): u is the estimate for `against`, "null" or "negative".

    With exact scores it samples at w > 1 from neither p(x) p(c|x)^w nor a reweighting of it: noising and sharpening do not commute.
    It extrapolates: at w > 1 the weight 1 - w of u is negative.
    """

    aliases: ClassVar = {"cfg": {}}
    against: str = "null"

    @classmethod
    def from_extra(cls, extra: float, against: str = "null") -> CFG:
        """The convention (1 + w') c - w' u of the paper, w' = `extra`: scale = 1 + w'. Exact in float64 for every scale >= 0.5."""
        return cls(scale=1.0 + extra, against=against)

    def worse(self) -> tuple[str, str]:
        return "main", self.against


@dataclass(frozen=True, repr=False)
class AutoGuidance(Contrast):
    """Guidance by a weaker version of the model (Karras et al. 2024, arXiv:2406.02507): u is models[`weak`] on the condition `against`."""

    aliases: ClassVar = {"autoguidance": {}}
    scale: float = 2.0
    weak: str = "weak"
    against: str = "cond"

    def worse(self) -> tuple[str, str]:
        return self.weak, self.against
