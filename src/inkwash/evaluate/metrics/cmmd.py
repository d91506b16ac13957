"""CMMD: the kernel distance with a Gaussian kernel on unit embeddings of an image-text encoder (Jayasumana et al. 2024, arXiv 2401.09603).

    CMMD = 1000 MMD^2,  k(x, y) = exp(-|x - y|^2 / (2 10^2))

It assumes no normal distribution and has no bias. The authors' program keeps i = j in the means, which adds about
1000 ((1 - E k(x, x')) / M + (1 - E k(y, y')) / N); `biased=True` gives that number, for comparison with theirs.
"""

from __future__ import annotations

from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic
from inkwash.evaluate.metrics.kernel import Bell, means, mmd_statistic
from inkwash.evaluate.metrics.moments import check_pair


def check_unit(name: str, features: Tensor) -> None:
    """Raises UsageError `not_unit` unless every row of `features` (N, D) has length 1 within 1e-3."""
    worst = float((features.double().norm(dim=1) - 1).abs().max())
    if not worst < 1e-3:
        raise UsageError("not_unit", f"{name} are off unit length by {worst:.3g}; divide every embedding by its norm")


def cmmd_statistic(real: Tensor, fake: Tensor, *, sigma: float = 10.0, scale: float = 1000.0) -> Statistic:
    """CMMD with influences."""
    check_pair(real, fake)
    check_unit("real embeddings", real)
    check_unit("generated embeddings", fake)
    found = mmd_statistic(real, fake, Bell(sigma))
    return Statistic(scale * found.value, scale * found.fake, scale * found.real, scale**2 * found.surplus, True)


def cmmd(real: Tensor, fake: Tensor, *, sigma: float = 10.0, scale: float = 1000.0, biased: bool = False, level: float = LEVEL) -> Estimate:
    """CMMD of unit embeddings (M, D) of real and (N, D) of generated images. Raises UsageError `not_unit`."""
    found = cmmd_statistic(real, fake, sigma=sigma, scale=scale)
    if not biased:
        return found.estimate(level)
    kernel = Bell(sigma)
    offset = sum(-float(means(x, x, kernel, True).rows.mean()) / len(x) for x in (real, fake))                     # of 1 - k
    return found._replace(value=found.value + scale * offset).estimate(level, "with i = j, biased upwards at this N")
