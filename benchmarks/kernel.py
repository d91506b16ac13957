"""What a step of sampling costs beside the network: our kernel and guidance against diffusers' scheduler, microseconds a sample."""

from __future__ import annotations

from typing import Any

import peers
import torch
from harness import alternate

from inkwash.cond import Cond
from inkwash.core.level import Level
from inkwash.core.schedule import Cosine, Schedule
from inkwash.core.spacing import Trailing
from inkwash.guide import CFG, evaluate
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

STEPS = 20
PAIRS = {"ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
SHAPE = (4, 64, 64)


def measure(quick: bool) -> list[dict[str, Any]]:
    d = peers.diffusers()
    rows: dict[str, Any] = {}
    schedule: Schedule = Cosine()
    for name, scheduler in PAIRS.items():
        plan = parse(name, Sampler).plan(Trailing().levels(schedule, STEPS))  # type: ignore[type-abstract]
        for batch in (1, 8, 64):
            programs = [Program(plan, i, 0, prior(plan, SHAPE, i, 0)) for i in range(batch)]
            ways: dict[str, Any] = {"inkwash": lambda programs=programs: run(lambda x, level, index: x, programs)}
            if d is not None:
                ways["diffusers"] = lambda scheduler=scheduler, batch=batch: theirs(getattr(d, scheduler)(), batch)
            found = alternate(ways, 3 if quick else 9, 20)
            each = {way: round(one["median"] / STEPS / batch * 1e6, 1) for way, one in found.items()}
            spread = {way: [round(one[key] / STEPS / batch * 1e6, 1) for key in ("min", "max")] for way, one in found.items()}
            rows[f"{name}, batch {batch}"] = f"{each}, from and to {spread}" + (f", ratio {each['diffusers'] / each['inkwash']:.2f}" if d else "")
    guided: dict[str, Any] = {}
    for batch in (1, 8, 64):
        x, cond = torch.randn(batch, *SHAPE), Cond({"tokens": torch.randn(batch, 32, 192)})
        level = Level(torch.full((batch,), 0.6, dtype=torch.float64), torch.full((batch,), 0.8, dtype=torch.float64))
        guidances = [CFG(scale=4.0)] * batch

        def plain(x: torch.Tensor = x, cond: Cond = cond) -> torch.Tensor:
            both = torch.cat([x, x])
            _ = torch.cat([cond["tokens"], cond["tokens"]])
            one, two = both.chunk(2)
            return two + 4.0 * (one - two)

        ways = {"inkwash": lambda: evaluate({"main": lambda x, level, cond: x}, x, level, guidances, {"cond": cond, "null": cond}),
                "as a pipeline of diffusers writes it": plain}
        found = alternate(ways, 3 if quick else 9, 10)
        each = {way: round(one["median"] / batch * 1e6, 1) for way, one in found.items()}
        guided[f"batch {batch}"] = f"{each}, ratio {each['as a pipeline of diffusers writes it'] / each['inkwash']:.2f}"
    shape = " x ".join(map(str, SHAPE))
    return [{"title": f"Microseconds a sample and step, {shape}, ratio above 1 = we are faster", "notes": rows},
            {"title": f"Classifier-free guidance, microseconds a sample, {shape}", "notes": guided}]


def theirs(scheduler: Any, batch: int) -> torch.Tensor:
    """A whole run of a scheduler with a network that costs nothing."""
    scheduler.set_timesteps(STEPS)
    x = torch.randn(batch, *SHAPE)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample
    return x
