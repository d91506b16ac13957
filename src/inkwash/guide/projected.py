"""Adaptive projected guidance: the part of c - u that runs along c is what oversaturates; keep the rest (Sadat et al. 2024, arXiv:2410.02416).

With d = c - u, shortened to norm at most r, split d = d_par + d_orth along and across c. The guided estimate is
c + (w - 1)(d_orth + eta d_par). eta = 1 without a threshold is plain classifier-free guidance. All in the space of x0, norms and
products over one whole sample.

The paper also averages d over the steps with a negative momentum. That is left out on purpose: the result would depend on which steps
came before, so it would be no function of (x, lam), and neither orders of convergence, resuming nor batching unlike requests would hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from inkwash.core.level import Level
from inkwash.errors import UsageError
from inkwash.guide.guidance import Contrast


@dataclass(frozen=True, repr=False)
class APG(Contrast):
    """Projected guidance: `eta` is the share of the parallel part that stays, `threshold` the largest norm of c - u (None: no limit).

    The norm grows like the square root of the number of values; the paper uses 2.5 to 15 for 64 x 64 x 4 and 128 x 128 x 4 latents.
    """

    aliases: ClassVar = {"apg": {}}
    eta: float = 0.0
    threshold: float | None = None
    against: str = "null"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.eta, int | float) and math.isfinite(self.eta)):
            raise UsageError("bad_value", f"APG.eta is {self.eta!r}; expected a finite number, 0 to drop the parallel part, 1 to keep it")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise UsageError("bad_value", f"APG.threshold is {self.threshold!r}; expected a finite norm above 0, or None for no limit")
        if self.scale < 1:
            raise UsageError("bad_value", f"APG.scale is {self.scale:g}; projection is defined for a scale of at least 1; use CFG below that")

    def worse(self) -> tuple[str, str]:
        return "main", self.against

    def adjust(self, x0: Tensor, parts: tuple[Tensor, ...], x: Tensor, level: Level) -> Tensor:
        plain = self.eta == 1 and self.threshold is None
        if len(parts) == 2 and not plain:
            x0 = parts[0] + (self.weight(float(level.lam)) - 1) * self.direction(parts[0], parts[1])
        return super().adjust(x0, parts, x, level)

    def direction(self, c: Tensor, u: Tensor) -> Tensor:
        """d_orth + eta d_par of c - u for one sample, (1, ...) each."""
        d = c - u
        if self.threshold is not None:
            d = d * (self.threshold / d.norm().clamp(min=self.threshold))
        square = (c * c).sum()
        along = c * ((d * c).sum() / square.clamp(min=math.ulp(0.0)).where(square > 0, 1.0))
        return d - (1 - self.eta) * along
