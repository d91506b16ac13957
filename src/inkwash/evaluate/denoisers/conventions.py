"""Is the network asked as it was trained? Its noise coordinate, its gauge and the scale of its data, each tried against others.

A network is given x in some gauge and unit, and one number for the noise. None of the three can be read from its weights, and a wrong one does
not crash. But the network removes noise best when it is told the truth, so at a few noisy samples every other way of asking must do worse.
Tried are: other functions of lam as the coordinate (other scales, quarter log sigma, the index of the schedule, time mirrored, lam moved up and
down), the other two gauges, other scales of the data, and channels in reverse order. One thing is changed at a time; the noisy images are the
same throughout.

Two ways of asking may be the same: TimeIndex(Cosine()) is Angle() within 1 %, and a network that ignores its coordinate cannot be asked
wrongly. Neither is accused: another way must be better by `MARGIN` and by `DEVIATIONS` standard errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.coordinate import Angle, QuarterLogSigma, TimeIndex
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Schedule
from inkwash.denoiser import Denoiser
from inkwash.evaluate.denoisers.probe import DEVIATIONS, TIMES

MARGIN = 1.03                                              # another way must be this much better to accuse the declared one
MOVES = (-0.7, 0.7)                                        # by how much lam is told wrongly, to see that the truth serves best
SCALES = (0.18215, 0.5, 2.0, 1 / 0.18215)                  # by which the data may have been scaled; the odd one is that of Stable Diffusion
Told = Callable[[Level], Tensor]


class Way(NamedTuple):
    """One way of asking. `kind` is "declared", "coordinate", "gauge", "scale" or "order"; `error` as in the probe; `deviations` by how many standard
    errors the declared way is worse, negative where it is better."""

    kind: str
    name: str
    error: float
    deviations: float


class Asked(NamedTuple):
    """The declared way, and all others, best first."""

    declared: Way
    others: tuple[Way, ...]

    def better(self, kind: str) -> Way | None:
        """The best other way of that kind if it is clearly better than the declared one."""
        found = [way for way in self.others if way.kind == kind and self.declared.error > MARGIN * way.error and way.deviations >= DEVIATIONS]
        return found[0] if found else None

    def nearest(self, kind: str) -> Way:
        """The best other way of that kind."""
        return next(way for way in self.others if way.kind == kind)


class _Told(NamedTuple):
    """A coordinate given by a function."""

    function: Told

    def __call__(self, level: Level) -> Tensor:
        return self.function(level)


class _Reversed(nn.Module):
    """A network that was trained on channels in reverse order, as BGR is to RGB."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, told: Tensor, cond: Cond) -> Tensor:
        answer: Tensor = self.network(x.flip(1), told, cond)
        return answer.flip(1)


def coordinates(denoiser: Denoiser, schedule: Schedule) -> dict[str, Told]:
    """Names and functions of the coordinates that a network may have been trained with."""
    own = denoiser.coordinate
    found: dict[str, Told] = {f"{own!r} times 1000": lambda level: own(level) * 1000, f"{own!r} over 1000": lambda level: own(level) / 1000}
    for move in MOVES:
        found[f"{own!r} with lam moved by {move:+g}"] = lambda level, move=move: own(Gauge.VP.split(level.lam + move))  # type: ignore[misc]
    for other in (Angle(), Angle(1.0), QuarterLogSigma(), TimeIndex(schedule), TimeIndex(schedule, 1.0, 0.0), TimeIndex(schedule, -1000.0, 1000.0)):
        if other != own:
            found[repr(other)] = other
    return found


@torch.no_grad()
def ask_otherwise(denoiser: Denoiser, schedule: Schedule, x0: Tensor, cond: Cond | None = None, *, seed: int = 0) -> Asked:
    """Tries every way of asking on clean samples x0 (B, ...) with their conditions. About 18 ways, 5 network calls of B samples each."""
    cond = Cond.none(len(x0)) if cond is None else cond

    def like(gauge: Gauge, sigma_data: float, coordinate: Told) -> Denoiser:
        return Denoiser(denoiser.network, denoiser.prediction, gauge, sigma_data=sigma_data, coordinate=_Told(coordinate))  # type: ignore[arg-type]

    own = denoiser.coordinate
    ways: list[tuple[str, str, Denoiser]] = [("declared", "as declared", denoiser)]
    ways += [("coordinate", name, like(denoiser.gauge, denoiser.sigma_data, told)) for name, told in coordinates(denoiser, schedule).items()]
    ways += [("gauge", gauge.value, like(gauge, denoiser.sigma_data, own)) for gauge in Gauge if gauge is not denoiser.gauge]
    ways += [("scale", f"data {1 / scale:.3g} times as large", like(denoiser.gauge, denoiser.sigma_data * scale, own)) for scale in SCALES]
    turned = Denoiser(_Reversed(denoiser.network), denoiser.prediction, denoiser.gauge, sigma_data=denoiser.sigma_data, coordinate=own)
    ways += [("order", "the channels in reverse", turned)]
    spread = float(x0.double().var(dim=0).mean())
    errors = torch.zeros(len(ways), len(TIMES), len(x0), dtype=torch.float64)
    for k, time in enumerate(TIMES):
        level = Level(*(part.expand(len(x0)) for part in schedule(time)))
        x = level.mix(x0, noise.normal(x0.shape, seed, 0, k, "probe").to(x0))
        worst = min(spread, float(level.sigma[0] / level.alpha[0]) ** 2)
        for i, (_, _, way) in enumerate(ways):
            found = (way(x, level, cond) - x0).flatten(1).double().square().mean(1).cpu() / worst
            errors[i, k] = found.nan_to_num(torch.inf)
    listed = []
    for i, (kind, name, _) in enumerate(ways):
        excess = (errors[0] - errors[i]).flatten()
        spread_of = float(excess.std() / len(excess) ** 0.5)
        listed.append(Way(kind, name, float(errors[i].mean()), float(excess.mean()) / max(spread_of, 1e-300) if i else 0.0))
    return Asked(listed[0], tuple(sorted(listed[1:], key=lambda way: way.error)))
