"""Claims about the table that a sampler writes: its calls, its noise, its ends, and independence from gauge and company."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import product
from typing import Any

import torch
from torch import Tensor

from inkwash.core.analytic import point
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import DiscreteCosine, Linear
from inkwash.core.spacing import Path, Trailing
from inkwash.sample import Plan, Program, Sampler, begin, prior, run, tick
from inkwash.sample.kernel import State
from inkwash.sample.onestep import DDIM, EulerAncestral
from inkwash.sample.singlestep import SingleStep
from inkwash.verify.chain import Chain
from inkwash.verify.claim import Check, Claim, Measure, below, each
from inkwash.verify.convergence import CONVERGENCE
from inkwash.verify.oracle import F64, bumpy, deviation, even, path_of, same_bits, solve
from inkwash.verify.parts import PROCESSES, spacings

IMAGE = torch.tensor([0.3, -0.7], dtype=F64)


def stays(sampler: Sampler) -> Measure:
    """Data that are one point stay on alpha x0 + sigma eps after every row, on every process and spacing; or visibly do not."""
    paths = [path_of(schedule, spacing, 6) for schedule, spacing in product(PROCESSES, spacings())]
    worst = max(deviation(sampler.plan(path)) for path in paths)
    if sampler.exact:
        return below(worst, 1e-10, f"the worst row on {len(paths)} paths", "exact")
    return Measure(worst > 1e-3, f"{worst:.3g}", "above 0.001, for it is said not to be exact", cell="approx")


def noise_at_the_right_rows(sampler: Sampler) -> Measure:
    """Noise is drawn by stochastic samplers and by no others, and never in the last row."""
    plans = [sampler.plan(path_of(schedule, Trailing(), steps)) for schedule in PROCESSES for steps in (1, 2, 8)]
    last = max(float(plan.weights[-1, :, -1].abs().max()) for plan in plans)
    draws = max(plan.draws for plan in plans)
    passed = last == 0 and (draws > 0) == sampler.stochastic
    expected = f"{'some' if sampler.stochastic else 'no'} draws, 0 in the last"
    return Measure(passed, f"{draws} rows draw in 8 steps, weight {last:.3g} in the last", expected)


def _land(sampler: Sampler, steps: int) -> float:
    """The largest distance from IMAGE when the data are IMAGE alone, from pure noise, on every process and spacing."""
    data = point(IMAGE)
    plans = [sampler.plan(path_of(schedule, spacing, steps)) for schedule, spacing in product(PROCESSES, spacings())]
    programs = [Program(plan, 5, i, prior(plan, (2,), 5, i).double()) for i, plan in enumerate(plans)]
    results = run(lambda x, level, index: data.denoise(x, level), programs)
    return max(float((result.clean.x - IMAGE).abs().max()) for result in results)


def lands(sampler: Sampler) -> Measure:
    """The last step lands on x0."""
    return below(max(_land(sampler, steps) for steps in (2, 5)), 1e-9, "2 and 5 steps, all processes and spacings")


def one_step(sampler: Sampler) -> Measure:
    """One step goes from pure noise to the network's x0."""
    path = path_of(Linear(), Trailing(), 1)
    plan = sampler.plan(path)
    return Measure(plan.rows == 1 and _land(sampler, 1) < 1e-9, f"{plan.rows} call, misses x0 by {_land(sampler, 1):.2g}", "1 call, below 1e-09")


def calls(sampler: Sampler) -> Measure:
    """n steps evaluate the network at every level of the path but the clean one, in order, and a counter agrees with the table."""
    seen: dict[int, int] = {}
    problem = ""
    for steps in (1, 2, 3, 7, 10, 30):
        path = path_of(Linear(), Trailing(), steps)
        plan = sampler.plan(path)
        count = Counter[int]()

        def counted(x: Tensor, level: Level, index: Tensor, count: Counter[int] = count) -> Tensor:
            count.update(index.tolist())
            return torch.zeros_like(x)

        result = run(counted, [Program(plan, 0, 0, torch.ones(1))])[0]
        seen[steps] = count[0]
        if not _visits(plan, path) or not count[0] == result.stages == plan.rows:
            problem = f", not all levels of {steps} steps"
    least = all(seen[steps] >= steps for steps in seen)
    return Measure(least and not problem, f"{seen[10]} calls in 10 steps{problem}", "every level once or more, in order", cell=str(seen[10]))


def _visits(plan: Plan, path: Path) -> bool:
    """Whether the levels of the path occur in the plan's in their order, and the plan ends where the path does."""
    rows = iter(zip(plan.alpha.tolist(), plan.sigma.tolist(), strict=True))
    return all(any(row == tuple(level) for row in rows) for level in path.points)


def gauge(sampler: Sampler) -> Measure:
    """The same levels in another gauge, from the same image in its units and with the same noise, give the same image."""
    path, x = even(-3, 3, 9), torch.tensor([[1.3, -0.6, 0.8]], dtype=F64)
    images = []
    for kind in Gauge:
        plan = sampler.plan(path.to(kind))
        images.append(solve(plan, x * torch.hypot(*plan.start), seed=3) / torch.hypot(*plan.end))
    return below(max(float((image - images[0]).abs().max()) for image in images[1:]), 1e-10)


def with_eta(sampler: Sampler, eta: float) -> Sampler | None:
    """The sampler at that eta, None where it has none."""
    fields: Any = sampler
    return dataclasses.replace(fields, eta=eta) if hasattr(sampler, "eta") else None


def fresh(sampler: Sampler, path: Path) -> list[float]:
    """The deviation of the noise that is added on the way to each level of the path but the first: of the last row before it."""
    plan = sampler.plan(path)
    weights, found, row = plan.weights[:, 0, -1].tolist(), [], 0
    points = list(zip(plan.alpha.tolist(), plan.sigma.tolist(), strict=True))
    for level in path.points[1:]:
        while points[row + 1] != tuple(level) or points[row + 2:row + 3] == [tuple(level)]:   # the last row that ends there
            row += 1
        found.append(weights[row])
        row += 1
    return found


SHARE = (DDIM, EulerAncestral, SingleStep)                   # where eta is the share of the posterior's deviation
CHAINS = tuple((schedule, Chain.of(schedule.betas())) for schedule in (Linear(), DiscreteCosine()))


def eta(sampler: Sampler) -> Measure | None:
    """eta = 0 draws nothing; at 1 fresh noise has the posterior's deviation, which Bayes gives from the betas alone.

    Where eta is the share of that deviation, it is half of it at 1/2. Methods that are not exact are held to eta = 0 only, and those that
    draw noise for another purpose (Langevin moves) are left out.
    """
    none, half, full = (with_eta(sampler, value) for value in (0.0, 0.5, 1.0))
    if none is None or half is None or full is None or not sampler.order:
        return None
    path = Trailing().levels(Linear(), 1000)
    drawn = none.plan(path).draws
    if not sampler.exact:
        return Measure(drawn == 0, f"{drawn} rows draw at eta = 0", "none", "not exact: no claim above 0")
    bayes = torch.tensor([math.sqrt(max(0.0, CHAINS[0][1].posterior(k)[2])) for k in range(1000, 0, -1)], dtype=F64)
    held = [(full, 1.0), (half, 0.5)] if isinstance(sampler, SHARE) else [(full, 1.0)]
    worst = max(float((torch.tensor(fresh(one, path), dtype=F64) - share * bayes).abs().max()) for one, share in held)
    return Measure(drawn == 0 and worst < 1e-9, f"{drawn} rows draw at eta = 0, deviation off by {worst:.2g}", "0 rows, below 1e-09",
                   f"held to eta = 0{''.join(f', {share:g}' for _, share in held)}")


def posterior(sampler: Sampler) -> Measure | None:
    """The step from entry k to k - 1 of a table against Bayes, at eta = 1: mean and variance for samplers of one call and no memory."""
    full = with_eta(sampler, 1.0) or sampler
    if not (full.exact and full.stochastic and full.order == 1 and full.plan(Trailing().levels(Linear(), 3)).rows == 3):
        return None
    worst = 0.0
    for schedule, chain in CHAINS:
        for k in (1, 2, 10, 500, 999, 1000):
            stages = list(full.stages(Path(Gauge.VP, schedule(torch.tensor([k / 1000, (k - 1) / 1000], dtype=F64)))))
            p, q, v = chain.posterior(k)
            mix, (s_x, s_0) = stages[0].next, stages[0].slope
            h = mix.h[0] if mix.h else 0.0
            worst = max(worst, abs(mix.x + h * s_x - p), abs(h * s_0 - q), abs(mix.z - math.sqrt(max(0.0, v))))
    return below(worst, 1e-9, "2 tables, 6 entries")


def programs_of(sampler: Sampler) -> list[Program]:
    """Three unlike requests in float32, of other processes, steps, seeds and images."""
    paths = [path_of(PROCESSES[i % len(PROCESSES)], Trailing(), 3 + i) for i in range(3)]
    plans = [sampler.plan(path) for path in paths]
    return [Program(plan, 100 + i, i, prior(plan, (2, 3), 100 + i, i)) for i, plan in enumerate(plans)]


def batched(sampler: Sampler) -> Measure:
    """Alone or with others, the bits of a sample are the same."""
    programs = programs_of(sampler)
    together = run(bumpy, programs)
    same = [same_bits(run(bumpy, [program])[0].x, result.x) for program, result in zip(programs, together, strict=True)]
    return Measure(all(same), f"{sum(same)} of {len(same)} the same bits", "all")


def resumed(sampler: Sampler) -> Measure:
    """Stopped after any row, stored and taken up again, the bits are the same."""
    programs = programs_of(sampler)
    straight, same = run(bumpy, programs), []
    for stop in range(1, max(program.plan.rows for program in programs)):
        state = begin(programs)
        for _ in range(stop):
            state, _, _ = tick(bumpy, programs, state)
        stored = State(state.x.clone(), state.base.clone(), tuple(h.clone() for h in state.h), state.row.clone())
        same.append(all(same_bits(a.x, b.x) for a, b in zip(straight, run(bumpy, programs, state=stored), strict=True)))
    return Measure(all(same), f"{sum(same)} of {len(same)} stops", "all")


SAMPLERS: tuple[Check[Sampler], ...] = (
    *CONVERGENCE,
    Check(Claim("point", "Data that are one point stay exact after every row (or, where the sampler says so, do not)."), each(stays)),
    Check(Claim("noise", "Noise is drawn where the sampler says that it draws, and never in the last step."), each(noise_at_the_right_rows)),
    Check(Claim("x0", "The last step lands on the network's x0."), each(lands)),
    Check(Claim("one step", "One step is one call and lands on x0."), each(one_step)),
    Check(Claim("calls", "Steps asked are steps made: every level of the path is visited in order; shown are the calls of 10 steps."), each(calls)),
    Check(Claim("gauge", "The gauge does not matter."), each(gauge)),
    Check(Claim("posterior", "A step along a table has the mean and the variance of the posterior, found by Bayes from the betas."), each(posterior)),
    Check(Claim("eta", "eta = 0 draws nothing, and eta scales the deviation of fresh noise from there to the posterior's."), each(eta)),
    Check(Claim("batch", "A sample's bits do not depend on its company."), each(batched)),
    Check(Claim("resume", "A run that was stopped and taken up again has the same bits."), each(resumed)),
)
