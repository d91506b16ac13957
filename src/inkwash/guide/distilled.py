"""Guidance that a student network has learned: it is told w and answers with the guided estimate in one evaluation.

A student of guidance distillation (Meng et al. 2022, arXiv:2210.03142, section 3.1) was trained so that
student(x, c, w) = u + w (c - u) of its teacher. There is one branch, and w is part of what the network is told. What the teacher contrasted
with, its null condition, is fixed since then: a negative prompt has nothing to replace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from inkwash.guide.guidance import Branch, Guidance, number


@dataclass(frozen=True, repr=False)
class Distilled(Guidance):
    """x0 of a student that is told w = `scale`: one branch. Scales outside the range that it was trained on, usually 1..8, are extrapolated."""

    aliases: ClassVar = {"distilled": {}}
    scale: float = 4.0

    def __post_init__(self) -> None:
        number(self, "scale", low=0.0, high=100.0)

    def branches(self, lam: float) -> tuple[Branch, ...]:
        return (Branch("main", "cond", 1.0, told=self.scale),)
