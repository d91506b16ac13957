"""Parity with the schedulers of diffusers: same levels, same network, same noise, same image, to what their float32 allows.

Where the definitions differ: theirs starts `leading` grids below the terminal level (their own grid is used here); DDPMScheduler with
"fixed_large" adds noise to the last step unless it ends at index 0; the third-order DPM-Solver++ has half of the last term (see its docstring),
and is compared at order 2; LMS integrates numerically to 1e-4; DDIMScheduler goes from t to t - T // n, which on uneven (linspace) grids is
not its own next timestep, so only even grids are compared.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from inkwash.core import noise
from inkwash.core.analytic import Mixture
from inkwash.core.level import Gauge, Level
from inkwash.core.schedule import Linear, Straight
from inkwash.core.spacing import Karras, LogSNR, Path
from inkwash.sample import Program, Sampler, prior, run
from inkwash.value import parse

diffusers = pytest.importorskip("diffusers")

F64 = torch.float64
DATA = Mixture(torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[-0.8, 0.1, 0.5], [0.7, 0.3, -0.2]], dtype=F64),
               torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.1, 0.05]], dtype=F64))
SHAPE, SEED = (2, 3), 31
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def unit(row: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return noise.normal(shape, SEED, 0, row, "step")


def theirs(scheduler: Any, x: Tensor, points: list[tuple[float, float]], **options: Any) -> Tensor:
    """Their loop; points are (alpha, sigma) of every call in the scheduler's own gauge."""
    for row, (t, (alpha, sigma)) in enumerate(zip(scheduler.timesteps, points, strict=True)):
        scheduler.scale_model_input(x, t)
        x0 = DATA.denoise(x.double(), Level(torch.tensor(alpha, dtype=F64), torch.tensor(sigma, dtype=F64)))
        eps = ((x.double() - alpha * x0) / sigma).float()
        extra = {"variance_noise": unit(row)} if "variance_noise" in options else {}
        x = scheduler.step(eps, t, x, **{k: v for k, v in options.items() if k != "variance_noise"}, **extra).prev_sample
    return x


def ours(text: str, path: Path, x: Tensor) -> Tensor:
    sampler = parse(text, Sampler)  # type: ignore[type-abstract]
    plan = sampler.plan(path)
    return run(lambda x, level, index: DATA.denoise(x[0].double(), level)[None], [Program(plan, SEED, 0, x)])[0].x


def integer_path(scheduler: Any) -> tuple[Path, list[tuple[float, float]]]:
    abar = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    level = Level(torch.cat([abar.sqrt(), torch.ones(1)]).double(), torch.cat([(1 - abar).sqrt(), torch.zeros(1)]).double())
    path = Path(Gauge.VP, level)
    return path, [tuple(point) for point in path.points[:-1]]


def sigma_path(scheduler: Any, gauge: Gauge, *, repeated: bool = False) -> tuple[Path, list[tuple[float, float]]]:
    sigma = scheduler.sigmas.double()
    levels = gauge.split(-torch.log(sigma))
    points = list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))[:len(scheduler.timesteps)]
    if repeated:
        sigma = torch.cat([sigma[:1], sigma[1:-1:2], sigma[-1:]])
    return Path.of(gauge, -torch.log(sigma)), points


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert float((a - b).abs().max()) < tolerance
    assert float(a.std()) > 0.1


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(spacing: str, eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(20)
    path, points = integer_path(scheduler)
    x = noise.normal(SHAPE, SEED, 0, 0, "start")
    close(ours(f"DDIM(eta={eta})", path, x), theirs(scheduler, x, points, eta=eta, variance_noise=True), 2e-5)


@pytest.mark.parametrize(("ours_", "theirs_"), [("posterior", "fixed_small"), ("forward", "fixed_large")])
@pytest.mark.parametrize("steps", [50, 1000])
def test_ddpm(ours_: str, theirs_: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.DDPMScheduler(**BETAS, clip_sample=False, variance_type=theirs_, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    path, points = integer_path(scheduler)
    rows = iter(range(steps))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **_: unit(next(rows)))
    x = noise.normal(SHAPE, SEED, 0, 0, "start")
    close(ours(f"DDPM('{ours_}')", path, x), theirs(scheduler, x, points), 2e-5 if steps == 50 else 2e-4)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize(("text", "name", "repeated", "tolerance"), [
    ("euler", "EulerDiscreteScheduler", False, 2e-5), ("heun", "HeunDiscreteScheduler", True, 2e-5), ("lms", "LMSDiscreteScheduler", False, 2e-3)])
def test_sigma_schedulers(text: str, name: str, repeated: bool, tolerance: float, karras: bool) -> None:
    scheduler = getattr(diffusers, name)(**BETAS, timestep_spacing="trailing", use_karras_sigmas=karras)
    scheduler.set_timesteps(20)
    path, points = sigma_path(scheduler, Gauge.VE, repeated=repeated)
    assert path.steps == 20
    x = noise.normal(SHAPE, SEED, 0, 0, "start") * float(path.levels.sigma[0])
    close(ours(text, path, x), theirs(scheduler, x, points), tolerance)


def test_euler_ancestral(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    path, points = sigma_path(scheduler, Gauge.VE)
    rows = iter(range(20))
    monkeypatch.setattr("diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda shape, **_: unit(next(rows)))
    x = noise.normal(SHAPE, SEED, 0, 0, "start") * float(path.levels.sigma[0])
    close(ours("euler_a", path, x), theirs(scheduler, x, points), 5e-5)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize(("text", "name", "options"), [
    ("DPMSolverPP(1)", "DPMSolverMultistepScheduler", {"solver_order": 1}),
    ("dpmpp_2m", "DPMSolverMultistepScheduler", {"solver_order": 2}),
    ("dpmpp_2m_sde", "DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    ("unipc", "UniPCMultistepScheduler", {"solver_order": 2}),
    ("UniPC(1)", "UniPCMultistepScheduler", {"solver_order": 1}),
    ("DEIS(1)", "DEISMultistepScheduler", {"solver_order": 1}),
    ("DEIS(2)", "DEISMultistepScheduler", {"solver_order": 2}),
    ("deis", "DEISMultistepScheduler", {"solver_order": 3})])
def test_multistep(text: str, name: str, options: dict[str, Any], karras: bool) -> None:
    scheduler = getattr(diffusers, name)(**BETAS, timestep_spacing="trailing", use_karras_sigmas=karras, **options)
    scheduler.set_timesteps(20)
    path, points = sigma_path(scheduler, Gauge.VP)
    assert path.steps == 20
    x = noise.normal(SHAPE, SEED, 0, 0, "start")
    extra = {"variance_noise": True} if "sde" in text else {}
    close(ours(text, path, x), theirs(scheduler, x, points, **extra), 5e-5)


def test_flow_euler() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(12)
    sigma = scheduler.sigmas.double()
    path = Path(Gauge.FLOW, Level(1 - sigma, sigma))
    x = start = noise.normal(SHAPE, SEED, 0, 0, "start")
    for t, s in zip(scheduler.timesteps, sigma.tolist(), strict=False):
        x0 = DATA.denoise(x.double(), Level(torch.tensor(1 - s, dtype=F64), torch.tensor(s, dtype=F64)))
        x = scheduler.step(((x.double() - x0) / s).float(), t, x).prev_sample                                 # x = x0 + s (eps - x0)
    close(ours("euler", path, start), x, 2e-5)


def test_karras_and_exponential_grids() -> None:
    for options, spacing in (({"use_karras_sigmas": True}, Karras()), ({"use_exponential_sigmas": True}, LogSNR())):
        scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace", **options)
        scheduler.set_timesteps(15)
        sigma = spacing.levels(Linear(), 15).to(Gauge.VE).levels.sigma
        assert torch.allclose(sigma, scheduler.sigmas.double(), rtol=1e-4, atol=1e-6)


def test_trailing_grid_starts_where_ours_does() -> None:
    from inkwash.core.spacing import Trailing
    scheduler = diffusers.DDIMScheduler(**BETAS, timestep_spacing="trailing")
    for steps in (1, 4, 10, 50, 1000):
        scheduler.set_timesteps(steps)
        index = Linear().time(Trailing().levels(Linear(), steps).levels.lam[:-1]) * 1000 - 1
        assert index.round().long().tolist() == scheduler.timesteps.tolist()


def test_prior_of_a_flow_is_unit_noise() -> None:
    plan = parse("euler", Sampler).plan(LogSNR().levels(Straight(), 3))  # type: ignore[type-abstract]
    assert torch.equal(prior(plan, SHAPE, SEED, 0), noise.normal(SHAPE, SEED, 0, 0, "start"))
    assert math.isclose(float(plan.sigma[0]), 1.0)
