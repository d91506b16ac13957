"""Every claim can fail: wrong parts are planted, and each is caught by the claim that it breaks, and by no error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import Prediction, V
from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Path, Spacing
from inkwash.guide import CFG, Branch, Guidance
from inkwash.sample import Mix, Sampler, Stage
from inkwash.sample.onestep import DDIM, ancestral, noise_split
from inkwash.verify.claim import Check, Finding
from inkwash.verify.guidances import GUIDANCES
from inkwash.verify.predictions import PREDICTIONS
from inkwash.verify.samplers import SAMPLERS
from inkwash.verify.schedules import SCHEDULES, SPACINGS

CHECKS: dict[type, Sequence[Check[Any]]] = {Sampler: SAMPLERS, Schedule: SCHEDULES, Spacing: SPACINGS, Prediction: PREDICTIONS, Guidance: GUIDANCES}


def find(part: Any, claim: str) -> Finding:
    checks = next(checks for base, checks in CHECKS.items() if isinstance(part, base))
    check = next(check for check in checks if check.claim.name == claim)
    return check.find("part", {"planted": part})[0]


@dataclass(frozen=True, repr=False)
class _Posing(DDIM):
    """Order one, said to be two."""

    order = 2


@dataclass(frozen=True, repr=False)
class _NoisyEnd(DDIM):
    """Ten per cent of fresh noise, in the last step too."""

    eta: float = 1.0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q, self.eta) + Mix(z=0.1))


@dataclass(frozen=True, repr=False)
class _WrongEta(DDIM):
    """The deviation of fresh noise is multiplied by eta squared: right at 0 and 1."""

    eta: float = 0.5

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q, self.eta**2))


@dataclass(frozen=True, repr=False)
class _BetaForPosterior(DDIM):
    """Noise of deviation sigma_pq in place of the posterior's, none at the end; exactness is claimed."""

    eta: float = 1.0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            mix = ancestral(p, q, self.eta)
            forward = math.sqrt(max(0.0, p.sigma**2 - (p.alpha / q.alpha * q.sigma) ** 2))
            yield Stage(p, Mix(mix.x, mix.base, mix.h, forward * self.eta if q.sigma > 0 else 0.0))


@dataclass(frozen=True, repr=False)
class _Skips(DDIM):
    """Leaves the second level of the path out."""

    def stages(self, path: Path) -> Iterator[Stage]:
        points = path.points
        points = points[:1] + points[2:] if len(points) > 3 else points
        for p, q in pairwise(points):
            yield Stage(p, ancestral(p, q))


@dataclass(frozen=True, repr=False)
class _GaugeBound(DDIM):
    """Mixes as if alpha were 1: right in one gauge only."""

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            keep = q.sigma / p.sigma
            yield Stage(p, Mix(x=keep, h=(1 - keep if q.sigma > 0 else 1.0,)))


@dataclass(frozen=True, repr=False)
class _StopsShort(DDIM):
    """Keeps one per cent of x in the last step."""

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            yield Stage(p, ancestral(p, q) if q.sigma > 0 else Mix(x=0.01, h=(0.99,)))


@dataclass(frozen=True, repr=False)
class _MeanOnly(DDIM):
    """The posterior's mean with a tenth of its noise, said to have order 1: variance is lost however many steps are made."""

    eta: float = 1.0

    def stages(self, path: Path) -> Iterator[Stage]:
        for p, q in pairwise(path.points):
            full = ancestral(p, q, 1.0)
            yield Stage(p, Mix(full.x, full.base, full.h, 0.1 * noise_split(p, q, 1.0)[1]))


@dataclass(frozen=True, repr=False)
class _Breaks(DDIM):
    """Raises."""

    def stages(self, path: Path) -> Iterator[Stage]:
        raise ZeroDivisionError("two levels are the same")
        yield  # pragma: no cover


@pytest.mark.parametrize(("sampler", "claim"), [
    (_Posing(), "order"), (_Posing(), "mixture"), (_Posing(), "inversion"), (_NoisyEnd(), "noise"), (_NoisyEnd(), "x0"), (_NoisyEnd(), "point"),
    (_NoisyEnd(), "posterior"), (_WrongEta(), "eta"), (_BetaForPosterior(), "eta"), (_BetaForPosterior(), "posterior"),
    (_BetaForPosterior(), "point"), (_Skips(), "calls"), (_GaugeBound(), "gauge"), (_GaugeBound(), "order"), (_StopsShort(), "x0"),
    (_StopsShort(), "one step"), (_MeanOnly(), "moments"), (_MeanOnly(), "marginals"), (_MeanOnly(), "order"), (_Breaks(), "calls")], ids=str)
def test_wrong_samplers_are_caught(sampler: Sampler, claim: str) -> None:
    finding = find(sampler, claim)
    assert not finding.passed
    assert ("ZeroDivisionError" in finding.measured) == isinstance(sampler, _Breaks), finding.line()


def test_a_part_that_raises_does_not_hide_the_others() -> None:
    check = next(check for check in SAMPLERS if check.claim.name == "order")
    found = check.find("sampler", {"good": DDIM(), "bad": _Breaks()})
    assert [(finding.subject, finding.passed) for finding in found] == [("good", True), ("bad", False)]


def test_a_kernel_that_depends_on_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = import_module("inkwash.sample.run")

    right = loop.advance
    monkeypatch.setattr(loop, "advance", lambda state, *rest: right(state, *rest)._replace(x=right(state, *rest).x * (1 + 1e-6 * len(state.x))))
    assert not find(DDIM(), "batch").passed


def test_a_loop_with_memory_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = import_module("inkwash.sample.run")

    right, calls = loop.advance, iter(range(10**6))
    monkeypatch.setattr(loop, "advance", lambda state, *rest: right(state, *rest)._replace(x=right(state, *rest).x + 1e-6 * next(calls)))
    assert not find(DDIM(), "resume").passed


def test_noise_that_counts_its_draws_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from inkwash.core import noise

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(noise, "normal", lambda shape, *names: torch.randn(tuple(shape), generator=generator))
    assert not find(DDIM(1.0), "resume").passed
    assert find(DDIM(), "eta").passed


@dataclass(frozen=True, repr=False)
class _OffByOne(Spacing):
    """linspace(1, 0, n): one step too few, for the clean level is counted as a step."""

    def levels(self, schedule: Schedule, steps: int) -> Path:
        t = torch.linspace(1, 0, max(2, steps), dtype=torch.float64)
        return Path.of(schedule.gauge, schedule.lam(t))

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class _Tutorial(Spacing):
    """range(0, T, T // n): starts below the terminal level, and makes 31 steps of 30."""

    def levels(self, schedule: Schedule, steps: int) -> Path:
        index = torch.arange(0, 1000, 1000 // steps, dtype=torch.float64).flip(0)
        lam = torch.cat([schedule.lam((index + 1) / 1000), torch.tensor([math.inf], dtype=torch.float64)])
        return Path.of(schedule.gauge, lam)

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class _Back(Spacing):
    """Two levels in the wrong order."""

    def lam(self, schedule: Schedule, steps: int) -> Tensor:
        raise NotImplementedError

    def levels(self, schedule: Schedule, steps: int) -> Path:
        lam = schedule.lam(1 - torch.arange(steps + 1, dtype=torch.float64) / steps)
        return Path.of(schedule.gauge, torch.cat([lam[:1], lam[1:-1].flip(0), lam[-1:]]))


@pytest.mark.parametrize(("spacing", "claim"), [(_OffByOne(), "steps"), (_Tutorial(), "steps"), (_Tutorial(), "ends"), (_Back(), "falls")], ids=str)
def test_wrong_spacings_are_caught(spacing: Spacing, claim: str) -> None:
    finding = find(spacing, claim)
    assert not finding.passed
    assert "Error" not in finding.measured, finding.line()


def test_an_uneven_grid_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from inkwash.core.spacing import Karras, Uniform

    assert find(Karras(), "even").passed
    monkeypatch.setattr(Karras, "lam", Uniform.lam)
    assert not find(Karras(), "even").passed


@dataclass(frozen=True, repr=False)
class _Wave(Schedule):
    """Rises in the middle, inverts nothing, keeps no unit, and leaves more than it says."""

    gauge = Gauge.VP

    def lam(self, t: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return 3 - 6 * t + torch.sin(12 * t)

    def time(self, lam: Tensor) -> Tensor:
        return ((3 - lam) / 6).clamp(0, 1)

    def __call__(self, t: Tensor | float) -> Level:
        level = super().__call__(t)
        return Level(level.alpha * 1.01, level.sigma)

    def betas(self) -> Tensor:
        return torch.linspace(0.1, 0.2, 10, dtype=torch.float64)


@pytest.mark.parametrize("claim", ["falls", "inverse", "unit", "ends", "chain"])
def test_a_wrong_schedule_is_caught(claim: str) -> None:
    assert not find(_Wave(), claim).passed


@dataclass(frozen=True, repr=False)
class _Sign(V):
    """The target of v with one sign turned, solved as v."""

    def target(self, level: Level, x0: Tensor, eps: Tensor) -> Tensor:
        return -super().target(level, x0, eps)

    def gain(self, level: Level) -> Tensor:
        return -super().gain(level)


@pytest.mark.parametrize("claim", ["solve", "convert", "gain", "limits", "image"])
def test_a_wrong_prediction_is_caught(claim: str) -> None:
    assert not find(_Sign(), claim).passed


@dataclass(frozen=True, repr=False)
class _Extra(CFG):
    """The other convention under this one's name: weights 1 + w and -w, also at scale 1, of a size that depends on the gauge and the call."""

    def branches(self, lam: float) -> tuple[Branch, ...]:
        return Branch("main", "cond", 1 + self.scale), Branch("main", "null", -self.scale), Branch("main", "null", 0.0)

    def adjust(self, x0: Tensor, parts: tuple[Tensor, ...], x: Tensor, level: Level) -> Tensor:
        return x0 * (1 + 1e-3 * level.sigma.reshape(-1, 1)) + 1e-3 * torch.rand(1)


@pytest.mark.parametrize("claim", ["exact", "gauge", "table", "neutral", "batch"])
def test_a_wrong_guidance_is_caught(claim: str) -> None:
    assert not find(_Extra(), claim).passed


