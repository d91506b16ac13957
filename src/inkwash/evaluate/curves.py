"""Quality against cost and against guidance: the same measurement at many settings.

Fewer evaluations are not free and more are not always better, and which sampler is best depends on how many are allowed (Song et al. 2021,
arXiv 2010.02502, table 1: ancestral sampling collapses where DDIM does not). So every sampler is measured at every number of steps, with its
interval. Guidance has two conventions: here w = 1 is no guidance, in Ho & Salimans (2022, arXiv 2207.12598) w' = w - 1 = 0 is; both are stored.
All settings have the same captions and seeds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from inkwash.errors import UsageError
from inkwash.evaluate.collect import Samples
from inkwash.evaluate.measure import METRICS
from inkwash.evaluate.metrics.interval import Estimate
from inkwash.request import Request, check_guidance
from inkwash.sample import Sampler
from inkwash.value import alias_table, parse

USUAL = ("ddim", "ddpm", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
OTHERS = ("consistency", "lcm", "langevin", "pc")          # for students of distillation, or correctors whose cost is another


@dataclass(frozen=True)
class Curves:
    """Samplers x steps, and guidance scales with the sampler and steps of the main measurement; `num` samples at every point."""

    samplers: tuple[str, ...] = USUAL
    steps: tuple[int, ...] = (5, 10, 20, 40)
    guidance: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 8.0)
    num: int = 128


def every_sampler() -> tuple[str, ...]:
    """One short name for every sampler that draws from noise by itself."""
    found: dict[str, str] = {}
    for name, value in alias_table(Sampler).items():  # type: ignore[type-abstract]
        if name not in OTHERS:
            found.setdefault(repr(value), name)
    return tuple(found.values())


def curve_settings(curves: Curves, request: Request) -> list[Request]:
    """The settings in order: sampler by sampler, then guidance. Raises UsageError `unknown_name`, `bad_steps`, `bad_guidance`, `too_few`."""
    if curves.num < (least := max(metric.least for metric in METRICS.values())):
        raise UsageError("too_few", f"{curves.num} samples at each point of a curve are too few: precision needs at least {least}; "
                                    "raise --curve-num")
    for name in curves.samplers:
        parse(name, Sampler)  # type: ignore[type-abstract]
    found = [dataclasses.replace(request, sampler=name, steps=steps) for name in curves.samplers for steps in curves.steps]
    scales = [float(check_guidance(scale, "--curve-guidance")) for scale in curves.guidance]
    return found + [dataclasses.replace(request, guidance=scale) for scale in scales]


class Point(NamedTuple):
    """One setting and what was measured there; `nfe` is the mean number of network evaluations of an image."""

    setting: Request
    nfe: float
    num: int
    seconds: float
    metrics: dict[str, Estimate]

    @classmethod
    def of(cls, setting: Request, samples: Samples, metrics: dict[str, Estimate]) -> Point:
        return cls(setting, float(samples.nfe.double().mean()), len(samples.requests), samples.seconds, metrics)

    @property
    def guidance(self) -> float | None:
        """w, where guidance is a scale."""
        return self.setting.guidance if isinstance(self.setting.guidance, float) else None

    def json(self) -> dict[str, Any]:
        """For the result."""
        w = self.guidance
        return {"sampler": self.setting.sampler, "spacing": self.setting.spacing, "steps": self.setting.steps, "guidance": self.setting.guidance,
                "guidance_minus_1": None if w is None else w - 1, "nfe": self.nfe, "num": self.num, "seconds": round(self.seconds, 2),
                "metrics": {name: found._asdict() for name, found in self.metrics.items()}}


def by_cost(points: list[Point], request: Request) -> dict[str, list[Point]]:
    """Sampler -> points at the guidance of the main measurement, in order of cost."""
    found: dict[str, dict[int, Point]] = {}
    for point in points:
        if point.setting.guidance == request.guidance:
            found.setdefault(point.setting.sampler, {})[point.setting.steps] = point
    return {name: sorted(line.values(), key=lambda point: point.nfe) for name, line in found.items() if len(line) > 1}


def by_guidance(points: list[Point], request: Request) -> list[Point]:
    """Points that differ from the main measurement in guidance alone, in order of w."""
    found = {point.guidance: point for point in points if point.guidance is not None
             and dataclasses.replace(point.setting, guidance=request.guidance) == request}
    return [found[w] for w in sorted(found)]
