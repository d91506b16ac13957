"""Claims about predictions and gauges: what a network says, and in which units, does not change the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level, rescale
from inkwash.core.prediction import X0, Prediction
from inkwash.core.schedule import Linear
from inkwash.core.spacing import Trailing
from inkwash.errors import UsageError
from inkwash.sample import Program, prior, run
from inkwash.sample.multistep import DPMSolverPP
from inkwash.verify.claim import Check, Claim, Measure, below, each
from inkwash.verify.oracle import DATA, F64, path_of
from inkwash.verify.parts import predictions
from inkwash.verify.schedules import unit

LAM = torch.linspace(-9.2, 9.2, 93, dtype=F64)             # SNR from 1e-8 to 1e8


def sample(gauge: Gauge, lam: Tensor = LAM) -> tuple[Level, Tensor, Tensor, Tensor]:
    """Levels, x0, eps and x (N, 11)."""
    level = gauge.split(lam)
    x0, eps = torch.randn(2, len(lam), 11, generator=torch.Generator().manual_seed(3), dtype=F64)
    return level, x0, eps, level.mix(x0, eps)


def solves(prediction: Prediction) -> Measure:
    """The x0 of its own target, in all gauges, up to rounding times the gain."""
    worst = 0.0
    for gauge in Gauge:
        level, x0, eps, x = sample(gauge)
        rounding = (1 + prediction.gain(level).abs())[:, None] * (1 + level.sigma / level.alpha)[:, None] * 1e-12
        worst = max(worst, float(((prediction.solve(level, x, prediction.target(level, x0, eps)) - x0).abs() / rounding).max()))
    return below(worst, 1.0, "in units of 1e-12 times the gain")


def converts(prediction: Prediction) -> Measure:
    """To every other prediction and back."""
    worst = 0.0
    for other in predictions().values():
        for gauge in Gauge:
            level, x0, eps, x = sample(gauge)
            y = prediction.target(level, x0, eps)
            x0_there = prediction.solve(level, x, y)
            there = other.target(level, x0_there, level.eps(x, x0_there))
            x0_back = other.solve(level, x, there)
            back = prediction.target(level, x0_back, level.eps(x, x0_back))
            worst = max(worst, float(((back - y).abs() / (1 + y.abs().amax(dim=1, keepdim=True))).max()))
    return below(worst, 1e-9, f"{len(predictions())} predictions, 3 gauges, SNR from 1e-8 to 1e8")


def amplifies(prediction: Prediction) -> Measure:
    """gain is d x0 / d y, by differences."""
    level, x0, eps, x = sample(Gauge.VP, LAM[31:62])
    y, step = prediction.target(level, x0, eps), 1e-3
    found = (prediction.solve(level, x, y + step) - prediction.solve(level, x, y - step)) / (2 * step)
    gain = prediction.gain(level)
    return below(float((found - gain[:, None]).abs().max() / gain.abs().max()), 1e-8, cell=f"{float(gain.abs().max()):.2g}")


def at_the_ends(prediction: Prediction) -> Measure:
    """At pure noise and at no noise it gives x0, or refuses in words where it says nothing of x0; never a wrong or infinite number."""
    found = []
    for lam in (-math.inf, math.inf):
        level = Gauge.FLOW.split(torch.tensor([lam], dtype=F64))
        x0, eps = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
        try:
            got = prediction.solve(level, level.mix(x0, eps), prediction.target(level, x0, eps))
            found.append("x0" if float((got - x0).abs().max()) < 1e-9 else "wrong")
        except UsageError as error:
            found.append("refused" if error.code == "singular" else error.code)
    return Measure(set(found) <= {"x0", "refused"}, " and ".join(found), "x0 or refused, at noise and at clean", cell="/".join(found))


def same_image(prediction: Prediction) -> Measure:
    """An exact network makes the same image whatever it predicts."""
    plan = DPMSolverPP(2).plan(path_of(Linear(), Trailing(), 10))
    images = []
    for one in (X0(), prediction):
        def denoise(x: Tensor, level: Level, index: Tensor, one: Prediction = one) -> Tensor:
            x0 = DATA.denoise(x, level)
            return one.solve(level, x, one.target(level, x0, level.eps(x, x0)))

        images.append(run(denoise, [Program(plan, 0, 0, prior(plan, (3,), 7, 0).double())])[0].clean.x)
    return below(float((images[1] - images[0]).abs().max()), 1e-8)


PREDICTIONS: tuple[Check[Prediction], ...] = (
    Check(Claim("solve", "From its own target it gives x0 back."), each(solves)),
    Check(Claim("convert", "It converts into every other prediction and back."), each(converts)),
    Check(Claim("gain", "gain is the derivative of x0; shown is its largest value for |lam| <= 3."), each(amplifies)),
    Check(Claim("limits", "At pure noise and at no noise it gives x0 or refuses."), each(at_the_ends)),
    Check(Claim("image", "An exact network makes the same image whatever it predicts."), each(same_image)),
)


def keeps_unit(gauge: Gauge) -> Measure:
    """The gauge's unit holds and alpha / sigma is e^lam."""
    level = gauge.split(LAM)
    return below(max(float((unit(gauge, *level) - 1).abs().max()), float((level.lam - LAM).abs().max())), 1e-10)


def carries(gauge: Gauge) -> Measure:
    """An image moved to every other gauge is the mix of the same x0 and eps there, and comes back."""
    worst = 0.0
    for other in Gauge:
        level, x0, eps, x = sample(gauge)
        moved, there = rescale(x, level, other)
        back, _ = rescale(moved, there, gauge)
        expected = other.split(LAM).mix(x0, eps)
        worst = max(worst, *(float(((a - b) / b.abs().clamp(min=1)).abs().max()) for a, b in ((moved, expected), (back, x))))
    return below(worst, 1e-9)


def exact_ends(gauge: Gauge) -> Measure:
    """No noise is (1, 0), and pure noise (0, 1) where the gauge reaches it."""
    clean, noise = (tuple(float(part) for part in gauge.split(torch.tensor(lam, dtype=F64))) for lam in (math.inf, -math.inf))
    expected = (1.0, math.inf) if gauge is Gauge.VE else (0.0, 1.0)
    return Measure(clean == (1.0, 0.0) and noise == expected, f"{clean} and {noise}", f"(1.0, 0.0) and {expected}")


GAUGES: tuple[Check[Gauge], ...] = (
    Check(Claim("unit", "alpha and sigma keep the unit of the gauge, and alpha / sigma is e^lam."), each(keeps_unit)),
    Check(Claim("rescale", "Moving an image to another gauge and back changes nothing."), each(carries)),
    Check(Claim("limits", "No noise is (1, 0), and pure noise (0, 1) where the gauge reaches it."), each(exact_ends)),
)
