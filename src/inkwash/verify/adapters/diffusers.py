"""The schedulers of diffusers that make continuous images, with every `timestep_spacing` that they take.

Their x is in one of three gauges: VP (DDIM, DPM-Solver and kin), VE (Euler and kin), FLOW. Levels are read from `alphas_cumprod` at the
timestep, or from `sigmas` at the step index. Orders are measured on trained betas with lam even from 2 to -5 over 960 or 961 entries, which
24, 48, 96 and 192 intervals divide without rounding; everything else on the linear betas of Ho et al. 2020 over 1000 entries.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inkwash.core.level import Gauge
from inkwash.core.spacing import Point
from inkwash.errors import UsageError, install
from inkwash.verify.adapter import Candidate, Facts

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
QUIET = ("clip_sample", "skip_prk_steps", "original_inference_steps")                       # settings that no name shows
SPACINGS = ("leading", "linspace", "trailing")


def even_betas(total: int, low: float = -5.0, high: float = 2.0) -> list[float]:
    """betas whose lam falls evenly from `high` at the first entry to `low` at the last."""
    abar = torch.sigmoid(2 * torch.linspace(high, low, total, dtype=torch.float64))
    return [float(beta) for beta in 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])]


@dataclass(frozen=True)
class Kind:
    """A scheduler class with settings."""

    cls: str
    levels: str                                            # where levels are read: time, vp, ve, flow, ipndm
    options: dict[str, Any] = field(default_factory=dict)
    order: int | None = 1
    stochastic: bool = False
    calls_a_step: int = 1
    fewer: int = 0
    ours: str | None = None
    note: str = ""
    answer: str = "eps"                                    # what step() takes: eps, v, velocity, edm
    spacings: tuple[str, ...] = SPACINGS
    betas: bool = True                                     # takes betas
    steps: dict[str, Any] = field(default_factory=dict)    # arguments of step()
    times: dict[str, Any] = field(default_factory=dict)    # arguments of set_timesteps()


TWICE: dict[str, Any] = {"calls_a_step": 2, "fewer": 1, "note": "two calls a step but for the last, as documented"}
OWN: dict[str, Any] = {"spacings": (), "betas": False}
KINDS = (
    Kind("DDIMScheduler", "time", {"clip_sample": False}, ours="ddim"),
    Kind("DDIMScheduler", "time", {"clip_sample": False}, stochastic=True, ours="DDIM(eta=1.0)", steps={"eta": 1.0}),
    Kind("DDPMScheduler", "time", {"clip_sample": False, "variance_type": "fixed_small"}, stochastic=True, ours="ddpm"),
    Kind("DDPMScheduler", "time", {"clip_sample": False, "variance_type": "fixed_large"}, stochastic=True, ours="ddpm_beta"),
    Kind("PNDMScheduler", "time", {"skip_prk_steps": True}, 2, fewer=-1, note="one more call than steps by design, to start the multistep method"),
    Kind("LMSDiscreteScheduler", "ve", {}, 4, ours="lms", note="integrates its coefficients numerically to 1e-4"),
    Kind("EulerDiscreteScheduler", "ve", ours="euler"),
    Kind("EulerAncestralDiscreteScheduler", "ve", stochastic=True, ours="euler_a"),
    Kind("HeunDiscreteScheduler", "ve", {}, 2, ours="heun", **TWICE),
    Kind("KDPM2DiscreteScheduler", "ve", {}, 2, ours="dpm_2", **TWICE),
    Kind("KDPM2AncestralDiscreteScheduler", "ve", {}, None, True, ours="dpm_2_a", **TWICE),
    Kind("DPMSolverMultistepScheduler", "vp", {"solver_order": 1}, 1, ours="DPMSolverPP(1)"),
    Kind("DPMSolverMultistepScheduler", "vp", {"solver_order": 2}, 2, ours="dpmpp_2m"),
    Kind("DPMSolverMultistepScheduler", "vp", {"solver_order": 3}, 3, ours="dpmpp_3m"),
    Kind("DPMSolverMultistepScheduler", "vp", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}, 2, True, ours="dpmpp_2m_sde"),
    Kind("DPMSolverMultistepScheduler", "vp", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}, None, True, ours="dpmpp_3m_sde"),
    Kind("DPMSolverSinglestepScheduler", "vp", {"solver_order": 2}, 2, spacings=(), note="steps are calls, as documented"),
    Kind("DPMSolverSinglestepScheduler", "vp", {"solver_order": 3}, 3, spacings=(), note="steps are calls, as documented"),
    Kind("DEISMultistepScheduler", "vp", {"solver_order": 2}, 2, ours="DEIS(2)"),
    Kind("DEISMultistepScheduler", "vp", {"solver_order": 3}, 3, ours="deis"),
    Kind("UniPCMultistepScheduler", "vp", {"solver_order": 2}, 3, ours="unipc", note="order p + 1 with its corrector"),
    Kind("UniPCMultistepScheduler", "vp", {"solver_order": 3}, 4, ours="unipc_3", note="order p + 1 with its corrector"),
    Kind("SASolverScheduler", "vp", {}, None, True),
    Kind("LCMScheduler", "time", {"original_inference_steps": 1000}, 0, True, ours="lcm", spacings=(), note="for distilled networks, no order"),
    Kind("TCDScheduler", "time", {"original_inference_steps": 1000}, 0, True, spacings=(), note="for distilled networks, no order"),
    Kind("IPNDMScheduler", "ipndm", {}, 4, answer="v", **OWN),
    Kind("FlowMatchEulerDiscreteScheduler", "flow", {}, 1, ours="euler", answer="velocity", **OWN),
    Kind("FlowMatchEulerDiscreteScheduler", "flow", {"shift": 3.0}, 1, ours="euler", answer="velocity", **OWN),
    Kind("FlowMatchHeunDiscreteScheduler", "flow", {}, 2, ours="heun_flow", answer="velocity", **OWN, **TWICE),
    Kind("EDMEulerScheduler", "ve", {}, 1, ours="euler", answer="edm", **OWN),
    Kind("EDMDPMSolverMultistepScheduler", "ve", {"solver_order": 2}, 2, ours="dpmpp_2m", answer="edm", **OWN),
    Kind("EDMDPMSolverMultistepScheduler", "ve", {"solver_order": 3}, 3, ours="dpmpp_3m", answer="edm", **OWN),
)
LEFT_OUT = ("DPMSolverSDE and CosineDPMSolverMultistep need torchsde; RePaint, UnCLIP, KarrasVe, ScoreSde, SCM, CogVideoX and other schedulers "
            "of single pipelines need models of their own; parallel and inverse variants repeat the ones above")


class DiffusersRide:
    """A scheduler with its timesteps set."""

    def __init__(self, kind: Kind, scheduler: Any) -> None:
        self.kind, self.scheduler, self.row = kind, scheduler, 0
        self.timesteps = scheduler.timesteps

    @property
    def calls(self) -> int:
        return len(self.timesteps)

    @property
    def outer(self) -> bool:
        if self.kind.cls == "PNDMScheduler":
            return self.row != 1                           # the second call repeats the first step
        return bool(getattr(self.scheduler, "state_in_first_order", True))

    @property
    def end(self) -> Point:
        if self.kind.levels == "ipndm":
            return Point(float(self.scheduler.alphas[-1]), float(self.scheduler.betas[-1]))
        if self.kind.levels != "time":
            return _point(self.kind.levels, float(self.scheduler.sigmas[-1]))
        abar = float(getattr(self.scheduler, "final_alpha_cumprod", 1.0))
        return Point(math.sqrt(abar), math.sqrt(1 - abar))

    @property
    def level(self) -> Point:
        scheduler, kind = self.scheduler, self.kind
        if kind.levels == "time":
            abar = float(scheduler.alphas_cumprod[int(self.timesteps[self.row])])
            return Point(math.sqrt(abar), math.sqrt(1 - abar))
        if kind.levels == "ipndm":
            return Point(float(scheduler.alphas[self.row]), float(scheduler.betas[self.row]))
        index = scheduler.step_index or 0
        if self.outer or not hasattr(scheduler, "sigmas_interpol"):
            return _point(kind.levels, float(scheduler.sigmas[index]))
        return _point(kind.levels, float(scheduler.sigmas_interpol[index - (kind.cls == "KDPM2AncestralDiscreteScheduler")]))

    def step(self, x: Tensor, x0: Tensor, z: Tensor) -> Tensor:
        t, level = self.timesteps[self.row], self.level
        self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else None
        module = importlib.import_module(type(self.scheduler).__module__)
        drawn = getattr(module, "randn_tensor", None)

        def given(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None) -> Tensor:
            return z if dtype is None else z.to(dtype)

        if drawn is not None:
            module.randn_tensor = given  # type: ignore[attr-defined]
        try:
            result: Tensor = self.scheduler.step(_answer(self.kind.answer, level, x, x0), t, x, **self.kind.steps).prev_sample
        finally:
            if drawn is not None:
                module.randn_tensor = drawn  # type: ignore[attr-defined]
        self.row += 1
        return result


def _point(levels: str, sigma: float) -> Point:
    if levels == "flow":
        return Point(1 - sigma, sigma)
    return Point(1.0, sigma) if levels == "ve" else Point(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))


def _answer(answer: str, level: Point, x: Tensor, x0: Tensor, data: float = 0.5) -> Tensor:
    """What the scheduler takes from its network, from x0."""
    eps = (x - level.alpha * x0) / level.sigma
    if answer == "eps":
        return eps
    if answer == "v":
        return level.alpha * eps - level.sigma * x0
    if answer == "velocity":
        return eps - x0
    size = math.hypot(level.sigma, data)
    return (x0 - data**2 / size**2 * x) * size / (level.sigma * data)


@dataclass(frozen=True)
class DiffusersCandidate:
    """A kind with one spacing."""

    kind: Kind
    spacing: str | None

    @property
    def facts(self) -> Facts:
        kind = self.kind
        settings = {name.removeprefix("solver_").removeprefix("algorithm_"): value for name, value in [*kind.options.items(), *kind.steps.items()]
                    if name not in QUIET}
        words = [kind.cls.removesuffix("Scheduler"), *(f"{name}={value}" for name, value in settings.items())]
        gauge = {"ve": Gauge.VE, "flow": Gauge.FLOW}.get(kind.levels, Gauge.VP)
        name = " ".join(words) + (f" / {self.spacing}" if self.spacing else "")
        return Facts(name, gauge, kind.order, kind.stochastic, kind.calls_a_step, kind.fewer, kind.ours, kind.note)

    def _make(self, steps: int, betas: dict[str, Any]) -> Any:
        import diffusers

        spacing = {"timestep_spacing": self.spacing} if self.spacing else {}
        scheduler = getattr(diffusers, self.kind.cls)(**self.kind.options, **spacing, **(betas if self.kind.betas else {}))
        scheduler.set_timesteps(steps, **self.kind.times)
        return scheduler

    @property
    def terminal(self) -> Point:
        scheduler = self._make(2, LINEAR)
        if self.kind.betas:
            abar = float(scheduler.alphas_cumprod[-1])
            sigma = math.sqrt((1 - abar) / abar)
            return Point(math.sqrt(abar), math.sqrt(1 - abar)) if self.kind.levels == "time" else _point(self.kind.levels, sigma)
        if self.kind.levels == "ipndm":
            return Point(0.0, 1.0)
        return _point(self.kind.levels, 1.0 if self.kind.levels == "flow" else float(scheduler.config.sigma_max))

    def ride(self, steps: int) -> DiffusersRide:
        return DiffusersRide(self.kind, self._make(steps, LINEAR))

    def even_ride(self, steps: int) -> DiffusersRide:
        whole = self.spacing in ("leading", "trailing")    # grids of as many intervals as steps
        betas = even_betas(960 if whole else 961)
        return DiffusersRide(self.kind, self._make(steps if whole else steps + 1, {"num_train_timesteps": len(betas), "trained_betas": betas}))


@dataclass(frozen=True)
class Diffusers:
    """The library."""

    version: str
    name: str = "diffusers"
    left_out: str = LEFT_OUT

    def candidates(self) -> list[Candidate]:
        return [DiffusersCandidate(kind, spacing) for kind in KINDS for spacing in kind.spacings or (None,)]


def load() -> Diffusers:
    """The installed diffusers. Raises UsageError `missing_library`."""
    try:
        import diffusers
    except ImportError as error:
        raise UsageError("missing_library", f"verify --against diffusers needs diffusers; {install('interop')}") from error
    diffusers.utils.logging.set_verbosity_error()
    return Diffusers(str(diffusers.__version__))
