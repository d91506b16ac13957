"""The scheduler of diffusers with the mathematics of a model of ours: betas, prediction, sampler, grid of steps.

Their levels agree with ours on the grid `trailing`, with a number of steps that divides that of training, and on the grids of Karras and of even
lam, which reach the ends of the table when they are laid on `linspace`. Some classes round the timesteps of these grids, and fail where two of
the first are one: where a process leaps in its last step. Such a grid, and `leading` and `linspace`, which start below the terminal level
there, are written as `trailing`. Settings that a class does not have are for those that a user may put in its place, as in published folders.
A continuous process is the table of its levels at 1000 times.
"""

from __future__ import annotations

from typing import Any

import torch

from inkwash.core.coordinate import Coordinate, TimeIndex
from inkwash.core.level import Gauge
from inkwash.core.prediction import Prediction
from inkwash.core.schedule import DiscreteCosine, Linear, ScaledLinear, Schedule, Sigmoid, Tabulated, ZeroTerminal, log_abar_of_lam
from inkwash.core.spacing import Spacing
from inkwash.io.foreign_info import GRIDS, PREDICTIONS, ROUNDING, SAMPLERS, WITHOUT_GRIDS, WITHOUT_ZERO
from inkwash.io.info import ModelInfo
from inkwash.sample.plan import Sampler
from inkwash.value import parse

CONTINUOUS = 1000                                          # entries for a continuous process
USUAL: tuple[str, dict[str, Any]] = ("DPMSolverMultistepScheduler", {})


def scheduler_config(info: ModelInfo) -> dict[str, Any]:
    """The scheduler_config.json with the same mathematics as `info`, for a network that counts timesteps as they do; empty where none has it."""
    process = parse(info.process, Schedule)  # type: ignore[type-abstract]
    told = parse(info.coordinate, Coordinate) if info.coordinate else None  # type: ignore[type-abstract]
    return levels_config(info) if told == TimeIndex(process, float(process.num_steps or 0), -1.0) else {}


def levels_config(info: ModelInfo) -> dict[str, Any]:
    """`scheduler_config` for a network that is told of the level in any way: timestep k stands at t = (k + 1) / num_train_timesteps."""
    process = parse(info.process, Schedule)  # type: ignore[type-abstract]
    wanted = {parse(text, Prediction): name for name, text in PREDICTIONS.items()}  # type: ignore[type-abstract]
    prediction = wanted.get(parse(info.prediction, Prediction))  # type: ignore[type-abstract]
    zero = process.leak() == 0.0
    betas = _betas(process.base if isinstance(process, ZeroTerminal) else process)
    if not betas or prediction is None or info.gauge != "VP" or info.sigma_data != 1.0:
        return {}
    kind, options = _sampler(info.defaults.sampler, zero)
    grid = _grid(info.defaults.spacing, kind, zero or isinstance(process, DiscreteCosine))
    return {"_class_name": kind, **betas, "num_train_timesteps": process.num_steps or CONTINUOUS, "prediction_type": prediction,
            "rescale_betas_zero_snr": zero, **options, **grid, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1}


def _sampler(text: str, zero: bool) -> tuple[str, dict[str, Any]]:
    sampler = parse(text, Sampler)  # type: ignore[type-abstract]
    return next(((kind, options) for name, kind, options in SAMPLERS
                 if parse(name, Sampler) == sampler and not (zero and kind in WITHOUT_ZERO)), USUAL)  # type: ignore[type-abstract]


def _grid(text: str, kind: str, leaps: bool) -> dict[str, Any]:
    spacing = parse(text, Spacing)  # type: ignore[type-abstract]
    for key, name in GRIDS.items():
        if parse(name, Spacing) == spacing and kind not in WITHOUT_GRIDS and not (leaps and kind in ROUNDING):  # type: ignore[type-abstract]
            return {"timestep_spacing": "linspace", key: True}
    return {"timestep_spacing": "trailing"}


def _betas(process: Schedule) -> dict[str, Any]:
    match process:
        case Linear() | ScaledLinear():
            return {"beta_schedule": "linear" if isinstance(process, Linear) else "scaled_linear", "beta_start": process.beta_start,
                    "beta_end": process.beta_end}
        case DiscreteCosine(s=0.008, floor=0.0, cap=0.999):
            return {"beta_schedule": "squaredcos_cap_v2"}
        case Sigmoid(span=6.0, symmetric=True):
            return {"beta_schedule": "sigmoid", "beta_start": process.beta_start, "beta_end": process.beta_end}
        case Tabulated():
            return {"trained_betas": list(process.values)}
        case _ if process.num_steps is None and process.gauge is Gauge.VP:
            abar = log_abar_of_lam(process.lam(torch.linspace(0, 1, CONTINUOUS + 1, dtype=torch.float64))).exp()
            return {"trained_betas": (1 - abar[1:] / abar[:-1]).tolist()}
        case _:
            return {}
