"""Predictor and corrector: after each step, Langevin moves at the level that was reached.

x' = x + eta / 2 grad log p(x) + sqrt(eta) z leaves p unchanged as eta -> 0, whatever brought x near it, and so undoes errors of the predictor
(Song et al. 2021, arXiv 2011.13456, algorithm 3). A finite eta widens: on N(0, v) the stationary variance is v / (1 - eta / (4 v)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from inkwash.core.spacing import Path, Point
from inkwash.errors import UsageError, shown
from inkwash.sample.onestep import ancestral
from inkwash.sample.plan import Mix, Sampler, Stage

MOST = 16                                                  # corrections after a step: every one is a row, and a table is written before it runs


def langevin(p: Point, size: float) -> Stage:
    """One Langevin move at level p with eta = size * sigma^2: x - size / 2 (x - alpha x0) + sqrt(size) sigma z."""
    return Stage(p, Mix(x=1 - size / 2, h=(size / 2 * p.alpha,), z=math.sqrt(size) * p.sigma))


@dataclass(frozen=True, repr=False)
class PredictorCorrector(Sampler):
    """A DDIM step of the given `eta`, then `corrections` Langevin moves of `size` in units of sigma^2. 1 + corrections evaluations a step.

    Song et al. set the size by the norms of score and noise, (2 snr^2 |z|^2 / |score|^2); in expectation that is size = 4 snr^2 here, so
    that their snr = 0.16 is size = 0.1. The clean level is not corrected. The bias of `size` does not vanish with more steps: no order is claimed.
    """

    eta: float = 1.0
    corrections: int = 1
    size: float = 0.1
    aliases = {"langevin": {}, "pc": {}}
    order = 0
    exact = False
    stochastic = True

    def __post_init__(self) -> None:
        if not (0 <= self.eta <= 1 and 1 <= self.corrections <= MOST and 0 < self.size <= 1):
            raise UsageError("bad_sampler", f"PredictorCorrector needs eta in 0..1, corrections in 1..{MOST} and size in 0..1, got "
                                            f"{self.eta:g}, {shown(self.corrections, 40)} and {self.size:g}")

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q, self.eta))
            if q.sigma > 0:
                for _ in range(self.corrections):
                    yield langevin(q, self.size)
