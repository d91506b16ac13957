"""Guidance distillation as a training run: `task: guidance` with the folder of a finished model as `teacher`.

Everything but the network is the teacher's: process, prediction, codec, text encoder and null condition. The finished part is a complete model
folder, whose pipeline tells the student the scale and spends one evaluation where the teacher spends two.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from inkwash.cond import Cond
from inkwash.condition import TextConditioner
from inkwash.denoiser import Denoiser
from inkwash.distill.guidance import SCALES, GuidanceTask, Guided, student_of
from inkwash.errors import UsageError
from inkwash.io.info import INFO, Defaults
from inkwash.pipeline import Pipeline
from inkwash.train.config import LevelsText, RunConfig, WeightingText
from inkwash.train.features import Features, TextPart
from inkwash.train.levels import UniformLevels
from inkwash.train.run import register_task
from inkwash.train.setting import Setting
from inkwash.train.weighting import SimpleWeight

Scale = Annotated[float, Field(gt=0, le=100)]


class GuidanceRun(RunConfig):
    """`teacher` is the folder of a finished model or run, or the name of an embedded model; `scales` the range of w that is learned."""

    task: Literal["guidance"]
    teacher: str
    scales: tuple[Scale, Scale] = SCALES
    levels: LevelsText = UniformLevels()
    weighting: WeightingText = SimpleWeight()


class _Examples:
    """The data of a run, with the teacher in its fingerprint."""

    def __init__(self, features: Features, teacher: str) -> None:
        self.features = features
        self.fingerprint = f"{features.fingerprint} {teacher}"

    def batch(self, micro_step: int) -> tuple[Tensor, Cond, Tensor]:
        return self.features.batch(micro_step)

    def held_out(self, limit: int) -> tuple[Tensor, Cond, Tensor] | None:
        return self.features.held_out(limit)

    def key(self, index: int) -> str:
        return self.features.key(index)

    def summary(self) -> str:
        return self.features.loader.summary()

    def close(self) -> None:
        self.features.close()


def guided_task(config: GuidanceRun, setting: Setting) -> GuidanceTask:
    """The task of a config. Raises UsageError `bad_teacher` for a model without text, or with guidance distilled in already."""
    inside = Path(config.teacher) / "model"
    pipe = Pipeline.from_pretrained(inside if (inside / INFO).is_file() else config.teacher, device=str(setting.device), dtype=torch.float32)
    conditioner, teacher = pipe.conditioner, pipe.denoiser.eval().requires_grad_(False)
    if not isinstance(conditioner, TextConditioner):
        raise UsageError("bad_teacher", f"{pipe.info.name} is told nothing, so there is no guidance to distil; give a model with text")
    features = Features(config, setting, pipe.codec, TextPart(conditioner.tokenizer, conditioner.encoder))
    network = student_of(teacher.network).to(setting.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student = Denoiser(network, teacher.prediction, teacher.gauge, sigma_data=teacher.sigma_data, coordinate=teacher.coordinate)
    sample, default, (low, high) = config.sample, pipe.info.defaults, config.scales
    card = {**pipe.info.card, "teacher": pipe.hash, "scales": list(config.scales), "steps": config.steps, "batch": config.batch}
    info = dataclasses.replace(pipe.info, name=config.name, card=card,
                               defaults=Defaults(default.steps, default.sampler, default.spacing, min(max(low, default.guidance), high)))

    def null(count: int) -> Cond:
        return conditioner.null(count)

    def write(folder: Path, dtype: torch.dtype) -> None:
        Pipeline(student, pipe.codec, conditioner, info).save_pretrained(folder, dtype)

    def draw(path: Path) -> bool:
        if setting.preview is None or not sample.prompts:
            return False
        setting.preview(path, student, pipe.codec, conditioner, info, sample)
        return True

    return GuidanceTask(student, Guided(teacher, null), pipe.schedule, _Examples(features, pipe.hash), scales=config.scales, levels=config.levels,
                        weighting=config.weighting, write=write, draw=draw)


register_task("guidance", GuidanceRun, guided_task)
