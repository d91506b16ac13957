"""Is model A better than model B?

Both draw the same N prompts with the same seeds and meet the same real images, so what is common cancels. The difference of a metric has the
influences f_A(a_j) - f_B(b_j) on prompt j and g_A(x_i) - g_B(x_i) on real image i, hence

    Var = Var_j(f_A - f_B) / N + Var_i(g_A - g_B) / M,        z = difference / sqrt(Var)

Precision and density are means over samples, given the real images: g = 0. For recall and coverage, where samples share neighbours, the variance
is that of the difference on parts of the sets (see `neighbours`), with the same cuts for both models.

With n times as many prompts and real images the error shrinks by sqrt(n). So the difference d is found at the level alpha with power 1 - beta
when n = ((z_alpha + z_beta) error / d)^2; `num_to_decide` is n N.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, Statistic, normal_quantile, spread

POWER = 0.8


class Comparison(NamedTuple):
    """Two models on one metric."""

    difference: Estimate                                   # A - B, in the unit of the metric
    p: float                                               # two-sided, of no difference
    better: str                                            # "a", "b" or "undecided" at the level of the interval
    num_to_decide: int | None                              # samples of each model that find this difference with power 0.8; None when it is zero

    def text(self) -> str:
        """One line for a report."""
        verdict = {"a": "A is better", "b": "B is better", "undecided": "undecided"}[self.better]
        more = f"; about {self.num_to_decide} samples decide it" if self.better == "undecided" and self.num_to_decide is not None else ""
        return f"A - B = {self.difference.text()}, p = {self.p:.2g}: {verdict}{more}"


def compare_statistics(a: Statistic, b: Statistic, *, smaller_is_better: bool, paired: bool = True, level: float = LEVEL) -> Comparison:
    """Of two statistics over the same real samples. `paired` means that sample j of A and of B have the same prompt and seed.

    Raises UsageError `bad_pairs` when paired numbers differ.
    """
    if paired and len(a.fake) != len(b.fake):
        raise UsageError("bad_pairs", f"A has {len(a.fake)} samples and B has {len(b.fake)}; pairs need equal numbers, else say paired=False")
    if len(a.real) != len(b.real):
        raise UsageError("bad_pairs", f"A was measured against {len(a.real)} real samples and B against {len(b.real)}; use the same ones")
    if a.parts.shape != b.parts.shape:
        raise UsageError("bad_pairs", "A and B were cut into other numbers of parts; measure the same number of samples of both")
    joint = Statistic(a.value - b.value, a.fake - b.fake if paired else a.fake, a.real - b.real, parts=a.parts - b.parts)
    variance = joint.variance + (0.0 if paired else spread(b.fake))
    error, gap, normal = math.sqrt(variance), joint.value, NormalDist()
    width = normal_quantile(level) * error
    p = 2 * normal.cdf(-abs(gap) / error) if error > 0 else float(gap == 0)
    num = min(len(a.fake), len(b.fake))
    p = max(p, 2.0 ** (1 - num)) if paired else p          # the signs of so many pairs can say no more
    better = "undecided" if p > 1 - level else ("a" if (gap < 0) == smaller_is_better else "b")
    factor = ((normal_quantile(level) + normal.inv_cdf(POWER)) * error / gap) ** 2 if gap != 0 else None
    decide = None if factor is None else max(math.ceil(factor * num), 2)
    return Comparison(Estimate(gap, gap - width, gap + width, num, level, "paired" if paired else ""), p, better, decide)


def compare(a: Tensor, b: Tensor, real: Tensor, statistic: Callable[[Tensor, Tensor], Statistic], *, smaller_is_better: bool = True,
            paired: bool = True, level: float = LEVEL) -> Comparison:
    """Of features of two models (N, D), against the same real features (M, D); `statistic`(real, fake), for example `kernel_statistic`."""
    return compare_statistics(statistic(real, a), statistic(real, b), smaller_is_better=smaller_is_better, paired=paired, level=level)
