"""One evaluation of many unlike requests: gather all branches, call each model once, scatter the weighted sums.

N samples, each with its own level, guidance and conditions, need sum_i k_i branches. They are sorted by model into one batch each;
a model sees (x, level, condition) rows and never knows whose they are. With `micro_batch` every call has exactly that many rows, the
last one filled up by repetition. The shape a model sees is then always the same, and so are the bits of a row whatever its
neighbours are: fused guidance equals two passes, and a batch equals its samples alone.
Weighted sums are taken of many samples at once, number by number; adjustments run on one sample at a time, since a reduction over a batch
may sum in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.level import Level
from inkwash.errors import UsageError
from inkwash.guide.guidance import Branch, Guidance

Denoise = Callable[[Tensor, Level, Cond], Tensor]
Cut = Callable[[int], Sequence[int]]
"""The sizes of the network calls for that many rows; together they hold at least as many."""
T = TypeVar("T")


class _Row(NamedTuple):
    sample: int
    slot: int
    branch: Branch


def evaluate(models: Mapping[str, Denoise], x: Tensor, level: Level, guidances: Sequence[Guidance], conds: Mapping[str, Cond],
             micro_batch: int | Cut | None = None) -> tuple[Tensor, Tensor]:
    """Guided x0 (N, ...) and the network evaluations spent on each sample (N,) int64.

    x (N, ...); level.alpha and level.sigma (N,); one guidance per sample; conds by name, each for all N samples.
    micro_batch: rows per network call, or what cuts a number of rows into calls, or None for one call of whatever size.
    Raises UsageError `unknown_branch` when a guidance asks for a model or a condition that is not there, ValueError when sizes differ.
    """
    count = x.shape[0]
    sizes = {"level": level.alpha.numel(), "guidances": len(guidances), **{f"conds[{name!r}]": cond.batch for name, cond in conds.items()}}
    if wrong := {name: size for name, size in sizes.items() if size != count}:
        raise ValueError(f"evaluate got {count} samples but {wrong}")
    if isinstance(micro_batch, int) and micro_batch < 1:
        raise ValueError(f"micro_batch is {micro_batch}; expected at least 1 or None")
    if count == 0:
        return x, torch.zeros(0, dtype=torch.long)

    plans = _plans(guidances, level)
    places: list[list[tuple[Tensor, int]]] = [[(x, 0)] * len(plan) for plan in plans]         # of each branch: an output, and the row of it
    for (name, _), rows in _by_model(plans).items():
        out = _call(_find(models, name, "model"), x, level, rows, conds, micro_batch)
        for i, row in enumerate(rows):
            places[row.sample][row.slot] = (out, i)
    done, first = [], 0
    for last in range(1, count + 1):                       # neighbours with the same weights, whose rows lie side by side, are summed as one
        size = last - first
        if last == count or plans[last] != plans[first] or places[last] != [(out, i + size) for out, i in places[first]]:
            run = slice(first, last)
            parts = tuple(out[i : i + size] for out, i in places[first])
            done.append(_combine(guidances[run], plans[first], parts, x[run], Level(level.alpha[run], level.sigma[run])))
            first = last
    return _joined(done), torch.tensor([len(plan) for plan in plans])


def _plans(guidances: Sequence[Guidance], level: Level) -> list[tuple[Branch, ...]]:
    """The branches of each sample; asked once where neighbours have one guidance and one level."""
    plans: list[tuple[Branch, ...]] = []
    before: tuple[Guidance, float] | None = None
    for guidance, lam in zip(guidances, level.lam.tolist(), strict=True):
        same = before is not None and before[0] is guidance and before[1] == lam
        plans.append(plans[-1] if same else guidance.branches(lam))
        before = guidance, lam
    return plans


def _by_model(plans: Sequence[tuple[Branch, ...]]) -> dict[tuple[str, bool], list[_Row]]:
    """Rows of each model that are told a scale, and those that are not; those of one condition together."""
    rows = [_Row(i, k, branch) for i, plan in enumerate(plans) for k, branch in enumerate(plan)]
    rows.sort(key=lambda row: (row.branch.model, row.branch.cond))
    grouped: dict[tuple[str, bool], list[_Row]] = {}
    for row in rows:
        grouped.setdefault((row.branch.model, row.branch.told is not None), []).append(row)
    return grouped


def _call(model: Denoise, x: Tensor, level: Level, rows: Sequence[_Row], conds: Mapping[str, Cond], micro_batch: int | Cut | None) -> Tensor:
    sizes = micro_batch(len(rows)) if callable(micro_batch) else [micro_batch or len(rows)] * -(-len(rows) // (micro_batch or len(rows)))
    out, start = [], 0
    for size in sizes:
        some = rows[start : start + size]
        index = torch.tensor([row.sample for row in some] + [some[-1].sample] * (size - len(some)))
        y = model(x.index_select(0, index.to(x.device)), level.take(index), _gather(some, conds).pad(size))  # (size, ...)
        out.append(y[: len(some)])
        start += size
    return _joined(out)


def _gather(rows: Sequence[_Row], conds: Mapping[str, Cond]) -> Cond:
    """The conditions of the rows, which come sorted by name."""
    indices: dict[str, list[int]] = {}
    for row in rows:
        indices.setdefault(row.branch.cond, []).append(row.sample)
    parts = []
    for name, index in indices.items():
        whole = _find(conds, name, "condition")
        parts.append(whole if index == list(range(whole.batch)) else whole.take(index))
    cond = parts[0] if len(parts) == 1 else Cond.cat(parts)
    told = [row.branch.told for row in rows if row.branch.told is not None]                   # of all rows, or of none
    return Cond({**cond, "guidance": torch.tensor(told)}, cond.batch) if told else cond


def _combine(guidances: Sequence[Guidance], plan: tuple[Branch, ...], parts: tuple[Tensor, ...], x: Tensor, level: Level) -> Tensor:
    """The weighted sum of the branches of n samples, (n, ...) each, and what their guidances make of it."""
    x0 = parts[0]
    if len(plan) > 1 or plan[0].weight != 1.0:
        x0 = x0 * plan[0].weight
        for branch, part in zip(plan[1:], parts[1:], strict=True):
            x0.add_(part * branch.weight)
    if not any(guidance.adjusts for guidance in guidances):
        return x0
    adjusted = []
    for i, guidance in enumerate(guidances):
        one = slice(i, i + 1)
        own = tuple(part[one] for part in parts)
        adjusted.append(guidance.adjust(own[0] if x0 is parts[0] else x0[one], own, x[one], Level(level.alpha[one], level.sigma[one])))
    return _joined(adjusted)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _find(table: Mapping[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise UsageError("unknown_branch", f"guidance asks for the {kind} {name!r}; there are {', '.join(table) or 'none'}")
    return table[name]
