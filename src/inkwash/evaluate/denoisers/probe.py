"""Does a network do what is declared of it? Twenty clean samples tell its prediction, its sign and its direction of time.

Published codes differ in all three: velocity is eps - x0 here and x0 - eps where t = 1 is data, v has two signs, and a network may count time
up or down. A wrong declaration does not crash, it makes noise. But a trained network's answer, read as what it is, gives E[x0 | x], and no
function of x is closer to x0 in the mean square. So of all readings the right one has the smallest error

    e = |x0_hat - x0|^2 / min(Var x0, sigma^2 / alpha^2)

and e < 1: better than answering the mean of the data, or x / alpha. Readings are predictions x signs x directions, at five levels; the
network is asked twice at each, with its noise coordinate as it is and mirrored in time. Where two readings are one and the same number,
as EDM is -v for unit data, they share their error.

That holds at every level. So a reading accuses the declared one only if it is clearly better in the mean over levels, and clearly worse at no level
where the declared one says something, e < 1. At the start of a training sigma / alpha multiplies what is wrong with eps until a reading that
only shrinks it looks better in the mean; but not at the clean end. An answer of the right size has at most e = 2, and more is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Level
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.core.schedule import Schedule
from inkwash.denoiser import Denoiser
from inkwash.errors import UsageError, VerifyError

TIMES = (0.15, 0.3, 0.5, 0.7, 0.85)
PREDICTIONS: tuple[Prediction, ...] = (Eps(), X0(), V(), Score(), Velocity(), EDM())
GUESS = 0.9                                                # a network is untrained if no reading has a smaller error, a guess at worst at each level
MOST = 2.0                                                 # the error of another sample of the data, given as the answer
MARGIN = 1.15                                              # one reading is clearly better than another if it is so by this factor
DEVIATIONS = 3.0                                           # and by this many standard errors over samples and levels
LEAST = 8                                                  # samples below which nothing is concluded


class Reading(NamedTuple):
    """One way to read a network's answer y: y = sign * (a x0 + b eps), its noise coordinate mirrored in time or not; error as above."""

    prediction: Prediction
    sign: int
    mirrored: bool
    error: float

    def __str__(self) -> str:
        return f"{'-' if self.sign < 0 else ''}{self.prediction}{' with time reversed' if self.mirrored else ''}"


class Probe(NamedTuple):
    """The declared reading; the one that is to be believed, which is the declared one unless others accuse it; all, smallest error first; and
    whether any of them is better than knowing nothing."""

    declared: Reading
    best: Reading
    readings: tuple[Reading, ...]
    trained: bool

    @property
    def agrees(self) -> bool:
        """Whether the network does what is declared: it is trained, and no other reading accuses the declared one."""
        return self.trained and self.best == self.declared

    @property
    def message(self) -> str:
        """One sentence."""
        if not self.trained:
            return (f"no reading of the network's answers is better than a guess (the best has error {self.readings[0].error:.3g}); "
                    "it is untrained, or its noise coordinate, scale or condition are not those that it was trained with")
        if self.agrees:
            return f"the network predicts {self.declared}, as declared: error {self.declared.error:.3g}"
        return (f"the network is declared to predict {self.declared} (error {self.declared.error:.3g}), but its answers are those of "
                f"{self.best} (error {self.best.error:.3g})")

    def require(self) -> None:
        """Raises VerifyError `wrong_field` unless the network does what is declared."""
        if not self.agrees:
            raise VerifyError("wrong_field", f"{self.message}; correct the declared prediction or the network")


@torch.no_grad()
def probe(denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond | None = None, *, seed: int = 0) -> Probe:
    """Tries every reading of the network in `denoiser` on clean samples x0 (B, ...), about 20 of them, with their conditions.

    `schedule` is the process that the network was trained on: it mirrors time, t -> 1 - t. 10 network calls of B samples.
    Raises UsageError `too_few_samples` below 8.
    """
    if len(x0) < LEAST:
        raise UsageError("too_few_samples", f"a probe needs at least {LEAST} samples to conclude anything, got {len(x0)}; give about 20")
    cond = Cond.none(len(x0)) if cond is None else cond
    others = [p for p in PREDICTIONS if type(p) is not type(denoiser.prediction)]
    kinds = [(p, sign, mirrored) for p in (denoiser.prediction, *others) for sign in (1, -1) for mirrored in (False, True)]
    unit = x0 / denoiser.sigma_data                        # in the network's units
    spread = float(unit.double().var(dim=0).mean())
    errors = torch.zeros(len(kinds), len(TIMES), len(x0), dtype=torch.float64)
    for k, time in enumerate(TIMES):
        level, mirror = (Level(*(part.expand(len(x0)) for part in schedule(t))) for t in (time, 1 - time))
        x = level.mix(x0, noise.normal(x0.shape, seed, 0, k, "probe").to(x0))
        own, there = denoiser.own(x, level)
        answers = [ask(denoiser, own, at, cond) for at in (level, mirror)]
        worst = min(spread, float(there.sigma[0] / there.alpha[0]) ** 2)
        for i, (prediction, sign, mirrored) in enumerate(kinds):
            found = prediction.solve(there, own, sign * answers[mirrored])
            errors[i, k] = (found - unit).flatten(1).double().square().mean(1).cpu() / worst
    means = errors.mean((1, 2))
    errors = torch.where(errors.mean(2, keepdim=True) < MOST, errors, MOST)             # nan too
    readings = [Reading(*kind, float(error)) for kind, error in zip(kinds, means, strict=True)]
    says = errors[0].mean(1) < 1                           # (levels,)
    accusers = [i for i, other in enumerate(errors) if _clearly(other.flatten(), errors[0].flatten())
                and not any(_clearly(mine, theirs) for mine, theirs in zip(errors[0][says], other[says], strict=True))]
    believed = min(accusers or [0], key=lambda i: float(errors[i].mean()))
    trained = float(errors.mean(2).clamp(max=1).mean(1).min()) < GUESS
    return Probe(readings[0], readings[believed], tuple(sorted(readings, key=lambda reading: reading.error)), trained)


def _clearly(one: Tensor, other: Tensor) -> bool:
    """Whether errors `one` (n,) are clearly smaller than `other`."""
    gain = other - one
    return bool(other.mean() > MARGIN * one.mean()) and bool(gain.mean() >= DEVIATIONS * gain.std() / len(gain) ** 0.5)


def ask(denoiser: Denoiser, x: Tensor, level: Level, cond: Cond) -> Tensor:
    """The network's raw answer (B, ...) float32 to x in its own units, told the coordinate of `level`, whatever the level of x is."""
    dtype = next((p.dtype for p in denoiser.network.parameters() if p.is_floating_point()), x.dtype)
    told = denoiser.coordinate(level).to(device=x.device, dtype=torch.float32).expand(len(x))
    answer: Tensor = denoiser.network(x.to(dtype), told, cond.to(x.device, dtype))
    return answer.to(x.dtype)
