"""The sample sheet of a training run: fixed prompts (rows) and seeds (columns), drawn by the same pipeline that serves the model."""

from __future__ import annotations

from pathlib import Path

import torch

from inkwash.codec import Codec
from inkwash.condition import Conditioner
from inkwash.core.spacing import Spacing
from inkwash.denoiser import Denoiser
from inkwash.io.info import ModelInfo
from inkwash.pipeline import Pipeline
from inkwash.request import MAX_SEED, MAX_STEPS, Request, check_guidance, check_int, check_text
from inkwash.sample import Sampler
from inkwash.train.config import SampleConfig
from inkwash.train.sheet import save_sheet
from inkwash.value import parse


def check_sample(sample: SampleConfig) -> None:
    """Raises UsageError where the settings, which are those of the finished model too, are none that a picture can be made with."""
    for seed in sample.seeds:
        check_int(seed, "sample.seeds", "bad_seed", 0, MAX_SEED)
    check_int(sample.steps, "sample.steps", "bad_steps", 1, MAX_STEPS)
    check_guidance(sample.guidance, "sample.guidance")
    parse(sample.sampler, Sampler)  # type: ignore[type-abstract]
    if sample.spacing:
        parse(sample.spacing, Spacing)  # type: ignore[type-abstract]
    for prompt in sample.prompts:
        check_text(prompt, "a prompt of sample.prompts")


def preview(path: Path, denoiser: Denoiser, codec: Codec, conditioner: Conditioner, info: ModelInfo, sample: SampleConfig) -> None:
    """Writes the sheet to `path` (.png)."""
    pipeline = Pipeline(denoiser, codec, conditioner, info)
    pipeline.micro_batch = 16
    wide, high = info.sizes.default
    requests = [Request(prompt, "", seed, sample.steps, sample.sampler, sample.spacing, sample.guidance, wide, high)
                for prompt in sample.prompts for seed in sample.seeds]
    images = pipeline.generate(requests)
    save_sheet(path, torch.stack([image.pixels for image in images if image.pixels is not None]), len(sample.seeds))
