"""Guidance by the gradient of a classifier that was trained on noisy inputs (Dhariwal, Nichol 2021, arXiv:2105.05233).

The conditional score is grad log p(x) + grad log p(c | x). With Tweedie's formula x0 = (x + sigma^2 grad log p(x)) / alpha the classifier
moves x0 by (sigma^2 / alpha) grad log p(c | x), and eps by -sigma grad log p(c | x). That move is the same in every gauge: in x / alpha
the gradient grows by alpha. So a classifier is one more model that answers (x, level, cond), with a shift of x0 in place of an x0, and
guidance stays a weighted sum. With exact posteriors of the classes scale 1 gives the exact conditional.

At alpha = 0 the shift is the limit 0 * inf of a gradient that vanishes; it cannot be computed and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.level import Level, broadcast
from inkwash.errors import UsageError
from inkwash.guide.guidance import Branch, Guidance, number
from inkwash.guide.strength import FULL, Interval, Strength

LogProb = Callable[[Tensor, Level, Cond], Tensor]


class ClassifierShift:
    """(x, level, cond) -> (sigma^2 / alpha) grad_x log p(c | x), for log_prob(x (B, ...), level (B,), cond) -> (B,)."""

    def __init__(self, log_prob: LogProb) -> None:
        self.log_prob = log_prob

    def __call__(self, x: Tensor, level: Level, cond: Cond) -> Tensor:
        if bool((level.alpha == 0).any()):
            raise UsageError("no_signal", "classifier guidance is not defined where alpha = 0; give ClassifierGuidance an interval that ends "
                                          "before pure noise, such as Interval(0, 80)")
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            own = Cond({name: tensor.clone() for name, tensor in cond.items()}, cond.batch)
            log_p = self.log_prob(leaf, level, own)  # (B,)
            if log_p.shape != x.shape[:1]:
                raise ValueError(f"log_prob returned {tuple(log_p.shape)}; expected one number per sample, {tuple(x.shape[:1])}")
            gradient = torch.autograd.grad(log_p.sum(), leaf)[0]
        return gradient * broadcast(level.sigma**2 / level.alpha, x)


@dataclass(frozen=True, repr=False)
class ClassifierGuidance(Guidance):
    """x0(base) + scale(lam) * shift(cond): the model `main` on the condition `base`, and the model `classifier` on the condition `target`.

    `base="cond"` guides a conditional model on top. A classifier's call counts as one evaluation.
    """

    aliases: ClassVar = {"classifier": {}}
    scale: float = 1.0
    interval: Interval | None = None
    strength: Strength = FULL
    base: str = "null"
    classifier: str = "classifier"
    target: str = "label"

    def __post_init__(self) -> None:
        number(self, "scale")

    def branches(self, lam: float) -> tuple[Branch, ...]:
        inside = self.interval is None or lam in self.interval
        scale = self.scale * self.strength(lam) if inside else 0.0
        own = Branch("main", self.base, 1.0)
        return (own, Branch(self.classifier, self.target, scale)) if scale != 0.0 else (own,)
