"""The sample sheet of a training run: fixed prompts (rows) and seeds (columns), drawn by the same pipeline that serves the model."""

from __future__ import annotations

from pathlib import Path

import torch

from inkwash.codec import Codec
from inkwash.condition import Conditioner
from inkwash.denoiser import Denoiser
from inkwash.io.info import ModelInfo
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.train.config import SampleConfig
from inkwash.train.sheet import save_sheet


def preview(path: Path, denoiser: Denoiser, codec: Codec, conditioner: Conditioner, info: ModelInfo, sample: SampleConfig) -> None:
    """Writes the sheet to `path` (.png)."""
    pipeline = Pipeline(denoiser, codec, conditioner, info)
    pipeline.micro_batch = 16
    wide, high = info.sizes.default
    requests = [Request(prompt, "", seed, sample.steps, sample.sampler, sample.spacing, sample.guidance, wide, high)
                for prompt in sample.prompts for seed in sample.seeds]
    images = pipeline.generate(requests)
    save_sheet(path, torch.stack([image.pixels for image in images if image.pixels is not None]), len(sample.seeds))
