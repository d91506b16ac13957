"""Claims about guidance, on models that are known exactly: two Gaussians, a weaker one, and a classifier with the exact posterior.

For a condition c ~ N(m, v) and u ~ N(0, v) of one width, guidance at scale w is the exact denoiser of N(w m, v); for widths v and V the score
is w s_v + (1 - w) s_V. Every guidance has an expected x0 in these, by formulas that do not use its table.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core.analytic import Mixture, gaussian
from inkwash.core.level import Gauge, Level, rescale
from inkwash.guide import APG, CFG, AutoGuidance, ClassifierGuidance, ClassifierShift, Denoise, Distilled, Guidance, NoGuidance, evaluate
from inkwash.guide.guidance import Contrast
from inkwash.verify.claim import Check, Claim, Measure, below, each
from inkwash.verify.oracle import F64, same_bits

M, V, WIDE = torch.tensor([0.5, -0.3], dtype=F64), torch.tensor([0.3, 0.3], dtype=F64), torch.tensor([0.9, 0.7], dtype=F64)
CLASSES = Mixture(torch.tensor([0.4, 0.6], dtype=F64), torch.stack([M, -M]), torch.stack([V, V]))
COUNT = 33
LAM = torch.linspace(-4, 4, COUNT, dtype=F64)


def _labels(value: int) -> Cond:
    return Cond({"label": torch.full((COUNT,), value)})


CONDS = {"cond": _labels(0), "label": _labels(0), "null": _labels(-1), "negative": _labels(1)}


def _main(x: Tensor, level: Level, cond: Cond) -> Tensor:
    """E[x0 | x] of N(m, v) for label 0, of N(0, v) for no label; a student that is told w answers for N(w m, v)."""
    shift = cond["guidance"].to(x)[:, None] if "guidance" in cond else (cond["label"] == 0)[:, None].to(x)
    return gaussian(torch.zeros_like(V), V).denoise(x - level.alpha[:, None] * shift * M, level) + shift * M


def _weak(x: Tensor, level: Level, cond: Cond) -> Tensor:
    return gaussian(M, WIDE).denoise(x, level)


def _log_class(x: Tensor, level: Level, cond: Cond) -> Tensor:
    return CLASSES.posterior(x, level).log()[:, 0]


MODELS: dict[str, Denoise] = {"main": _main, "weak": _weak, "classifier": ClassifierShift(_log_class)}


def _x(gauge: Gauge = Gauge.VP) -> tuple[Tensor, Level]:
    level = gauge.split(LAM)
    x0, eps = torch.randn(2, COUNT, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    return level.mix(x0, eps), level


def guided(guidance: Guidance, x: Tensor, level: Level, models: dict[str, Denoise] = MODELS) -> tuple[Tensor, Tensor]:
    """(x0, calls) for x (COUNT, 2)."""
    return evaluate(models, x, level, [guidance] * len(x), {name: cond.take(range(len(x))) for name, cond in CONDS.items()})


def _from_score(x: Tensor, level: Level, score: Tensor) -> Tensor:
    return (x + level.sigma[:, None] ** 2 * score) / level.alpha[:, None]


def _score(x: Tensor, level: Level, mean: Tensor, variance: Tensor) -> Tensor:
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    return -(x - alpha * mean) / (alpha**2 * variance + sigma**2)


def expected(guidance: Guidance, x: Tensor, level: Level) -> Tensor | None:
    """The exact guided x0 by formulas on Gaussians; None for a guidance that is not known here."""
    own = _score(x, level, M, V)
    match guidance:
        case NoGuidance():
            return _from_score(x, level, own)
        case CFG(scale=w, interval=None, against="null"):
            return _from_score(x, level, _score(x, level, w * M, V))
        case APG(scale=w):
            c, u = (_from_score(x, level, _score(x, level, mean, V)) for mean in (M, 0 * M))
            along = ((c - u) * c).sum(1, keepdim=True) / (c * c).sum(1, keepdim=True) * c
            return c + (w - 1) * (c - u - (1 - guidance.eta) * along)
        case AutoGuidance(scale=w, interval=None):
            return _from_score(x, level, w * own + (1 - w) * _score(x, level, M, WIDE))
        case ClassifierGuidance(scale=w):
            base = _score(x, level, 0 * M, V)
            return _from_score(x, level, base + w * CLASSES.classify(x, level)[:, 0])
        case Distilled(scale=w):
            return _from_score(x, level, _score(x, level, w * M, V))
    return None


def exact(guidance: Guidance) -> Measure | None:
    """x0 as the formulas say."""
    x, level = _x()
    wanted = expected(guidance, x, level)
    if wanted is None:
        return None
    return below(float((guided(guidance, x, level)[0] - wanted).abs().max()), 1e-8)


def gauge(guidance: Guidance) -> Measure:
    """The same x0 in every gauge."""
    x, level = _x()
    plain = guided(guidance, x, level)[0]
    return below(max(float((guided(guidance, *rescale(x, level, other))[0] - plain).abs().max()) for other in (Gauge.VE, Gauge.FLOW)), 1e-8)


def table(guidance: Guidance) -> Measure:
    """Branches are a function of lam, with finite weights of which none is 0; the calls are counted right and shown."""
    lams = (-math.inf, -5.0, 0.0, 5.0, math.inf)
    tables = [guidance.branches(lam) for lam in lams]
    sound = all(table and all(branch.weight != 0 and math.isfinite(branch.weight) for branch in table) for table in tables)
    pure = tables == [guidance.branches(lam) for lam in lams]
    rows = 0

    def counted(model: Denoise) -> Denoise:
        def call(x: Tensor, level: Level, cond: Cond) -> Tensor:
            nonlocal rows
            rows += len(x)
            return model(x, level, cond)
        return call

    x, level = _x()
    calls = guided(guidance, x, level, {name: counted(model) for name, model in MODELS.items()})[1]
    return Measure(sound and pure and rows == int(calls.sum()), f"{rows} rows for {int(calls.sum())} reported", "equal, finite, no weight 0",
                   cell=f"{rows / COUNT:g}")


def neutral(guidance: Guidance) -> Measure | None:
    """At scale 1 a contrast is no guidance: the same bits, one call."""
    if not isinstance(guidance, Contrast):
        return None
    x, level = _x()
    plain, _ = guided(NoGuidance(), x, level)
    got, calls = guided(replace(guidance, scale=1.0), x, level)
    return Measure(same_bits(got, plain) and calls.tolist() == [1] * COUNT, f"{'same' if same_bits(got, plain) else 'other'} bits, "
                   f"{int(calls.max())} calls", "same bits, 1 call")


def batched(guidance: Guidance) -> Measure:
    """A sample alone has the bits that it has among others, when network calls have a fixed number of rows."""
    x, level = _x()

    def rows(which: list[int]) -> Tensor:
        index = torch.tensor(which)
        return evaluate(MODELS, x[index], level.take(index), [guidance] * len(which), {name: cond.take(index) for name, cond in CONDS.items()}, 4)[0]

    together = rows(list(range(COUNT)))
    same = sum(same_bits(rows([i])[0], together[i]) for i in range(0, COUNT, 8))
    return Measure(same == len(range(0, COUNT, 8)), f"{same} of {len(range(0, COUNT, 8))} the same bits", "all")


GUIDANCES: tuple[Check[Guidance], ...] = (
    Check(Claim("exact", "The guided x0 is what Gaussians give in closed form."), each(exact)),
    Check(Claim("gauge", "The gauge does not matter."), each(gauge)),
    Check(Claim("table", "Branches are a function of lam, finite, none of weight 0, and calls are counted; shown are calls per step."), each(table)),
    Check(Claim("neutral", "Scale 1 is no guidance, to the bit, and costs one call."), each(neutral)),
    Check(Claim("batch", "A sample's bits do not depend on its company."), each(batched)),
)

