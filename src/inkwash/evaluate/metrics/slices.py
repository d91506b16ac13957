"""The same measurement for parts of the prompts: every word of the captions is a slice.

A model may be good on average and fail on one word. Every slice has its mean with an interval and the test of the slice against all other images
(normal, for slices of 20 and more) or of two models inside the slice (paired). Scores take few values, and a slice may have the same one throughout:
its own variance says nothing then. So the error of a test is the larger of Welch's (1947) and that of a slice drawn at random from all images,
or with signs drawn at random for pairs (Pitman 1937). Many tests find something by chance: p values are adjusted so that the chance of *any*
false alarm in the table stays below the level (Holm 1979).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, mean_interval, normal_quantile, spread

LEAST = 20


class Slice(NamedTuple):
    """One row of the table."""

    name: str
    mean: Estimate                                         # of the slice; of A - B in a comparison
    difference: Estimate                                   # from all other images; in a comparison the same as `mean`
    p: float                                               # of no difference, alone
    p_table: float                                         # adjusted for all rows of the table
    notable: bool                                          # p_table <= 1 - level


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values: the r-th smallest of m times m - r + 1, made monotone, at most 1 (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min((len(p) - rank) * p[i], 1.0))
        adjusted[i] = worst
    return adjusted


def slices_by_word(captions: Sequence[str], *, least: int = LEAST, words: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Indices of the captions that hold a word, for every word in at least `least` captions but not in all; or for the given `words` alone."""
    split = [set(re.findall(r"\w+", caption.lower())) for caption in captions]
    counts = Counter(word for found in split for word in found)
    chosen = sorted(counts) if words is None else [word.lower() for word in words]
    return {word: torch.tensor([i for i, found in enumerate(split) if word in found]) for word in chosen
            if counts[word] >= least and len(captions) - counts[word] >= 2}


def _p(gap: float, error: float) -> float:
    return 2 * NormalDist().cdf(-abs(gap) / error) if error > 0 else float(gap == 0)


def slice_table(values: Tensor, slices: Mapping[str, Tensor], *, level: float = LEVEL) -> list[Slice]:
    """Values (N,) per image, the mean of every slice against all images outside it; the worst rows first."""
    _check(values, slices)
    rows = []
    for name, index in slices.items():
        inside = torch.zeros(len(values), dtype=torch.bool).index_fill_(0, index, True)
        here, there = values[inside].double(), values[~inside].double()
        at_random = float(values.double().var()) * (1 / len(here) + 1 / len(there))
        gap, error = float(here.mean() - there.mean()), math.sqrt(max(spread(here) + spread(there), at_random))
        rows.append((name, mean_interval(here, level), _gap(gap, error, len(here), level), _p(gap, error)))
    return _table(rows, level)


def compare_slices(a: Tensor, b: Tensor, slices: Mapping[str, Tensor], *, level: float = LEVEL) -> list[Slice]:
    """Values (N,) of two models on the same prompts: the mean of a - b in every slice, tested against zero; the lowest rows first."""
    _check(a, slices)
    if a.shape != b.shape:
        raise UsageError("bad_pairs", f"A has {len(a)} values and B has {len(b)}; both models answer the same prompts")
    rows = []
    for name, index in slices.items():
        gaps = (a - b)[index].double()
        mean = mean_interval(gaps, level)
        rows.append((name, mean, mean, _p(mean.value, math.sqrt(max(spread(gaps), float(gaps.square().sum()) / len(gaps) ** 2)))))
    return _table(rows, level)


def _check(values: Tensor, slices: Mapping[str, Tensor]) -> None:
    if values.ndim != 1:
        raise UsageError("bad_features", f"values have shape {tuple(values.shape)}; expected one per image")
    for name, index in slices.items():
        if not 2 <= len(index) <= len(values):
            raise UsageError("too_few", f"the slice '{name}' has {len(index)} of {len(values)} images; give it at least 2")


def _gap(gap: float, error: float, num: int, level: float) -> Estimate:
    width = normal_quantile(level) * error
    return Estimate(gap, gap - width, gap + width, num, level)


def _table(rows: list[tuple[str, Estimate, Estimate, float]], level: float) -> list[Slice]:
    adjusted = holm([p for *_, p in rows])
    table = [Slice(name, mean, gap, p, table_p, table_p <= 1 - level) for (name, mean, gap, p), table_p in zip(rows, adjusted)]
    return sorted(table, key=lambda row: row.difference.value)
