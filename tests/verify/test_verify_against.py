"""Another library is one adapter: a toy one here, right and wrong, and the schedulers of diffusers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from inkwash.core.level import Gauge
from inkwash.core.schedule import Linear
from inkwash.core.spacing import Point, Trailing
from inkwash.errors import UsageError
from inkwash.sample.onestep import noise_split
from inkwash.verify import adapters
from inkwash.verify.adapter import Candidate, Facts
from inkwash.verify.adapters.diffusers import KINDS
from inkwash.verify.against import CHECKS, compare, scoreboard
from inkwash.verify.claim import Finding
from inkwash.verify.oracle import even


class ToyRide:
    """x_q = alpha_q x0 + down eps + up z between given levels; `flaw` says what is wrong."""

    def __init__(self, points: Sequence[Point], eta: float, flaw: str) -> None:
        self.points, self.eta, self.flaw, self.row = list(points), eta, flaw, 0
        if flaw == "one more call":
            self.points.insert(1, Point(*[(a + b) / 2 for a, b in zip(*self.points[:2], strict=True)]))
        if flaw == "starts late":
            self.points = self.points[1:]
        self.calls, self.end = len(self.points) - 1, self.points[-1]
        self.outer = True

    @property
    def level(self) -> Point:
        return self.points[self.row]

    def step(self, x: Tensor, x0: Tensor, z: Tensor) -> Tensor:
        p, q = self.points[self.row:self.row + 2]
        down, up = noise_split(p, q, self.eta)
        if self.flaw == "noise at the end":
            up += 0.05
        if self.flaw == "drifts":
            down *= 0.99
        self.row += 1
        return q.alpha * x0 + down * (x - p.alpha * x0) / p.sigma + up * z


@dataclass(frozen=True)
class Toy:
    """One candidate."""

    flaw: str = ""
    eta: float = 0.0
    order: int = 1

    @property
    def facts(self) -> Facts:
        return Facts(f"toy {self.flaw}".strip(), Gauge.VP, self.order, self.eta > 0, ours=f"DDIM(eta={self.eta})")

    @property
    def terminal(self) -> Point:
        return Trailing().levels(Linear(), 1).points[0]

    def ride(self, steps: int) -> ToyRide:
        return ToyRide(Trailing().levels(Linear(), steps).points, self.eta, self.flaw if steps > 1 or self.flaw == "noise at the end" else "")

    def even_ride(self, steps: int) -> ToyRide:
        return ToyRide([*even(-5, 2, steps).points, Point(1.0, 0.0)], self.eta, self.flaw)


@dataclass(frozen=True)
class Toys:
    """A library."""

    ones: tuple[Toy, ...]
    name: str = "toys"
    version: str = "1"

    def candidates(self) -> Sequence[Candidate]:
        return self.ones


def failed(toy: Toy) -> set[str]:
    return {finding.claim for finding in scoreboard(Toys((toy,))).failures}


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_right_library_of_thirty_lines_passes(eta: float) -> None:
    report = scoreboard(Toys((Toy(eta=eta),)))
    assert {finding.claim for finding in report.findings} == {check.claim.name for check in CHECKS}
    assert not report.failures, report.text()


@pytest.mark.parametrize(("toy", "claim"), [
    (Toy(order=2), "order"), (Toy("one more call"), "calls"), (Toy("starts late"), "start"), (Toy("noise at the end", 1.0), "x0"),
    (Toy("noise at the end", 1.0), "one step"), (Toy("drifts"), "point"), (Toy("drifts"), "parity"), (Toy("drifts"), "order")], ids=str)
def test_wrong_libraries_are_marked(toy: Toy, claim: str) -> None:
    assert claim in failed(toy)


def test_a_survey_marks_and_does_not_fail() -> None:
    report = scoreboard(Toys((Toy(), Toy("starts late"))))
    report.require()
    assert " !" in report.text()
    assert not json.loads(json.dumps(report.json()))["passed"]
    assert {finding.subject for finding in report.failures} == {"toy starts late"}


def test_names_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="diffusers"):
        adapters.load("difusers")
    with pytest.raises(UsageError, match="--only"):
        scoreboard(Toys((Toy(),)), "heun")


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match=r"pip install -e .\.\[interop\]"):
        adapters.load("diffusers")


def found(only: str) -> dict[tuple[str, str], Finding]:
    pytest.importorskip("diffusers")
    return {(finding.subject, finding.claim): finding for finding in compare("diffusers", only).findings}


def test_diffusers_ddim_is_ours_where_its_grid_is_even() -> None:
    table = found("DDIM / trailing")
    assert table["DDIM / trailing", "parity"].passed
    assert table["DDIM / trailing", "order"].passed
    assert table["DDIM / trailing", "x0"].passed


def test_every_kind_of_diffusers_is_there_and_deterministic_ones_claim_an_order() -> None:
    diffusers = pytest.importorskip("diffusers")
    assert all(hasattr(diffusers, kind.cls) for kind in KINDS)
    assert len({kind.cls for kind in KINDS}) >= 20
    assert all(kind.order is not None for kind in KINDS if not kind.stochastic)


def test_patched_noise_is_put_back() -> None:
    pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm as module

    before = module.randn_tensor
    candidate = next(one for one in adapters.load("diffusers").candidates() if one.facts.name.startswith("DDPM"))
    ride = candidate.ride(3)
    x = torch.zeros(1, 2, dtype=torch.float64)
    with_one, with_two = (candidate.ride(3).step(x, x, torch.full_like(x, size)) for size in (1.0, 2.0))
    assert float((with_two - with_one).abs().min()) > 1e-3, "the noise that is given is the noise that is used"
    assert ride.calls == 3
    assert module.randn_tensor is before
