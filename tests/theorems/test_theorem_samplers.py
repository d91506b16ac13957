"""What holds for every sampler in the registry: exactness, endpoints, gauges, predictions, and independence from the batch."""

from __future__ import annotations

import pytest
import torch
from theorem_tools import CHECKS, PROCESSES, SAMPLERS, SDES, SPACINGS, finding
from torch import Tensor

from inkwash.core.level import Level
from inkwash.core.prediction import EDM, X0, Eps, Prediction, Score, V, Velocity
from inkwash.core.schedule import Cosine, Linear, Schedule
from inkwash.core.spacing import Path, Trailing
from inkwash.sample import Program, Sampler, begin, finish, prior, run, tick
from inkwash.sample.kernel import State
from inkwash.sample.multistep import DPMSolverPP
from inkwash.sample.onestep import DDIM, DDPM, Euler, EulerAncestral
from inkwash.sample.singlestep import DPMSolver, DPMSolverSDE, Heun
from inkwash.value import parse, registry
from inkwash.verify.oracle import DATA, F64, bumpy, even, path_of, same_bits, solve

PREDICTIONS: list[Prediction] = [X0(), Eps(), V(), Score(), Velocity(), EDM(), EDM(0.5)]


def test_every_sampler_is_covered() -> None:
    assert {type(sampler).__name__ for sampler in SAMPLERS} == set(registry(Sampler))  # type: ignore[type-abstract]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_samplers_are_values(sampler: Sampler) -> None:
    assert parse(repr(sampler), Sampler) == sampler  # type: ignore[type-abstract]
    assert parse(str(sampler), Sampler) == sampler  # type: ignore[type-abstract]


@pytest.mark.parametrize("claim", ["point", "noise", "x0", "one step", "calls", "gauge", "batch", "resume"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_claims_about_tables(sampler: Sampler, claim: str) -> None:
    """Exactness, noise and where it is not drawn, ends, evaluations, gauges, company: what `inkwash verify` measures."""
    assert finding(claim, sampler).passed, finding(claim, sampler).line()


@pytest.mark.parametrize("claim", ["posterior", "eta"])
def test_t1_claims_about_noise(claim: str) -> None:
    """Fresh noise has the variance of the posterior, found by Bayes from the betas alone."""
    check = next(check for check in CHECKS if check.claim.name == claim)
    found = check.find("sampler", {repr(sampler): sampler for sampler in SAMPLERS})
    assert len(found) >= 4
    assert all(one.passed for one in found), [one.line() for one in found if not one.passed]


@pytest.mark.parametrize("schedule", PROCESSES, ids=repr)
def test_predictions_do_not_matter(schedule: Schedule) -> None:
    """All samplers times all predictions in one batch: an exact network gives the same image whatever it was trained to predict."""
    path = path_of(schedule, Trailing(), 7)
    leaks = float(path.levels.alpha[0]) > 0
    predictions = [p for p in PREDICTIONS if leaks or not isinstance(p, Eps | Score)]
    programs, which = [], []
    for i, sampler in enumerate(SAMPLERS):
        plan = sampler.plan(path)
        for j in range(len(predictions)):
            programs.append(Program(plan, 11, i, prior(plan, (3,), 11, i).double()))
            which.append(j)
    picks = torch.tensor(which)

    def denoise(x: Tensor, level: Level, index: Tensor) -> Tensor:
        x0 = DATA.denoise(x, level)
        eps = level.eps(x, x0)
        out = torch.empty_like(x0)
        for j, prediction in enumerate(predictions):
            mine = picks[index] == j
            there = level.take(mine)
            out[mine] = prediction.solve(there, x[mine], prediction.target(there, x0[mine], eps[mine]))
        return out

    images = torch.stack([result.clean.x for result in run(denoise, programs)]).reshape(len(SAMPLERS), len(predictions), 3)
    assert float((images - images[:, :1]).abs().max()) < 1e-8
    assert float((images[0, 0] - images[2, 0]).abs().max()) > 1e-6, "samplers should differ"


def unlike() -> list[Program]:
    """Requests of every sampler, with other processes, spacings, numbers of steps and seeds, in float32."""
    programs = []
    for i, sampler in enumerate(SAMPLERS):
        plan = sampler.plan(path_of(PROCESSES[i % len(PROCESSES)], SPACINGS[i % len(SPACINGS)], 3 + i % 5))
        programs.append(Program(plan, 100 + i, i % 3, prior(plan, (2, 3), 100 + i, i % 3)))
    return programs


def test_s8_solo_equals_batched_bit_for_bit() -> None:
    programs = unlike()
    calls = []

    def counted(x: Tensor, level: Level, index: Tensor) -> Tensor:
        calls.append(len(index))
        return bumpy(x, level, index)

    together = run(counted, programs)
    assert len(calls) == max(program.plan.rows for program in programs)
    assert sum(calls) == sum(result.stages for result in together)
    for program, result in zip(programs, together, strict=True):
        alone = run(bumpy, [program])[0]
        assert same_bits(alone.x, result.x)
        assert alone.stages == result.stages == program.plan.rows


def test_s8_order_of_requests_does_not_matter() -> None:
    programs = unlike()
    order = torch.randperm(len(programs), generator=torch.Generator().manual_seed(1)).tolist()
    straight, shuffled = run(bumpy, programs), run(bumpy, [programs[i] for i in order])
    assert all(same_bits(straight[i].x, shuffled[k].x) for k, i in enumerate(order))


def test_s8_resume_equals_straight() -> None:
    programs = unlike()
    straight = run(bumpy, programs)
    for stop in (1, 3, 6):
        state = begin(programs)
        for _ in range(stop):
            state, _, _ = tick(bumpy, programs, state)
        stored = State(state.x.clone(), state.base.clone(), tuple(h.clone() for h in state.h), state.row.clone())
        resumed = run(bumpy, programs, state=stored)
        assert all(same_bits(a.x, b.x) and a.stages == b.stages for a, b in zip(straight, resumed, strict=True))


def test_s8_requests_may_join_a_running_batch() -> None:
    """Nothing but a sample's own state matters: late requests join, done ones leave, and bits stay."""
    programs = unlike()
    early, late = programs[:9], programs[9:18]
    state = begin(early)
    for _ in range(2):
        state, _, _ = tick(bumpy, early, state)
    joined = run(bumpy, [*early, *late], state=State.cat([state, begin(late)]))
    assert all(same_bits(a.x, b.x) for a, b in zip(joined, run(bumpy, programs)[:18], strict=True))


def test_run_remembers_nothing() -> None:
    programs = unlike()[:6]
    first = run(bumpy, programs)
    run(bumpy, unlike()[6:])
    assert all(same_bits(a.x, b.x) for a, b in zip(first, run(bumpy, programs), strict=True))


@pytest.mark.parametrize("schedule", PROCESSES, ids=repr)
def test_s3_ddim_eta_one_is_ddpm_and_euler_ancestral(schedule: Schedule) -> None:
    """With all steps and with a subset, and the posterior's variance (not beta)."""
    for steps in (1000 if schedule == Linear() else 100, 37):
        path = path_of(schedule, Trailing(), steps)
        ddim, ddpm, ancestral = (sampler.plan(path) for sampler in (DDIM(1.0), DDPM(), EulerAncestral()))
        x = prior(ddim, (1, 3), 2, 0).double()
        one, two, three = (solve(plan, x, seed=2) for plan in (ddim, ddpm, ancestral))
        assert torch.allclose(one, two, atol=1e-12, rtol=1e-12)
        assert torch.allclose(one, three, atol=1e-12, rtol=1e-12)
        assert torch.equal(DDIM().plan(path).weights, Euler().plan(path).weights)
        beta = DDPM("forward").plan(path)
        assert not torch.allclose(one, solve(beta, x, seed=2), atol=1e-6)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_both_halves_of_an_sde_step_are_steps_of_the_posterior(eta: float) -> None:
    """From p to the middle in lam, and, with x0 seen there, from p to q: each draws its own noise."""
    path = even(-2, 2, 3)
    plan = DPMSolverSDE(eta).plan(path)
    for k in range(3):
        lam = path.levels.lam[k], path.levels.lam[k:k + 2].mean(), path.levels.lam[k + 1]
        half, whole = (DDIM(eta).plan(Path.of(path.gauge, torch.stack([lam[0], end]))).weights[0, 0] for end in lam[1:])
        torch.testing.assert_close(plan.weights[2 * k, 0], half, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plan.weights[2 * k + 1, 0, 1:], torch.cat([whole[:1], whole[2:]]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [DDIM(1.0), Heun(eta=1.0), DPMSolver(eta=1.0), DPMSolver(3, eta=1.0), DPMSolverPP(2, 1.0)], ids=repr)
def test_after_pure_noise_all_noise_is_fresh(sampler: Sampler) -> None:
    """At alpha = 0 the posterior of the next level does not know x: alpha x0 + sigma z."""
    plan = sampler.plan(path_of(Cosine(), Trailing(), 5))
    alpha, sigma = float(plan.alpha[1]), float(plan.sigma[1])
    assert plan.weights[0, 0].tolist() == pytest.approx([0, 0, alpha, 0, 0, 0, sigma], abs=1e-12)


def test_s3_deterministic_samplers_ask_for_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> Tensor:
        raise AssertionError("noise was drawn")

    monkeypatch.setattr("inkwash.core.noise.normal", refuse)
    path, x = even(-3, 3, 5), torch.ones(1, 3, dtype=F64)
    for sampler in SAMPLERS:
        if not sampler.stochastic:
            solve(sampler.plan(path), x)
    with pytest.raises(AssertionError, match="noise was drawn"):
        solve(SDES[0].plan(path), x)


def test_finish_refuses_unfinished_programs() -> None:
    programs = unlike()[:3]
    with pytest.raises(AssertionError):
        finish(programs, begin(programs))
