"""Whose fault is it? The errors of an autoencoder and of a denoiser, kept apart.

A latent model can never draw better than its autoencoder decodes (Rombach et al. 2022, arXiv 2112.10752, section 4.1). So three distances:
real to reconstructed pictures is the autoencoder's alone, reconstructed to sampled the denoiser's alone, real to sampled what people see.
The Frechet distance is the square of a metric, sqrt(FD(real, sampled)) <= sqrt(FD(real, reconstructed)) + sqrt(FD(reconstructed, sampled)).
PSNR says in decibels how far a reconstruction is from its picture: -10 log10 of the mean square error of pixels in 0..1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.codec import Pixels
from inkwash.evaluate.collect import Pictures
from inkwash.evaluate.extractors.features import Extractor
from inkwash.evaluate.store import Job, Worker, key_of
from inkwash.pipeline import Pipeline


class Reconstructed(NamedTuple):
    """Of every picture after encoding and decoding: its features (N, D) and its PSNR (N,) in dB, +inf where nothing is lost."""

    features: Tensor
    psnr: Tensor


def reconstruct(pipeline: Pipeline, images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> the same after encoding and decoding. Raises UsageError `invalid_size` for sizes that the codec cannot take."""
    pipeline.info.sizes.check(images.shape[3], images.shape[2])
    return pipeline.codec.decode(pipeline.codec.encode(images.to(pipeline.device))).cpu()


def reconstructed(pipeline: Pipeline, pictures: Pictures, extractor: Extractor, worker: Worker) -> Reconstructed:
    """Encodes and decodes all pictures; for a model on pixels nothing changes."""
    exact = isinstance(pipeline.codec, Pixels)
    decides = [pipeline.hash, str(pipeline.dtype), pipeline.device.type, extractor.hash]

    def job(chunk: int) -> Job:
        def make() -> dict[str, Tensor]:
            before = pictures.pixels(chunk)
            after = before if exact else reconstruct(pipeline, before)
            return {"features": extractor(after), "mse": (before.double() - after.double()).div(255).square().flatten(1).mean(1)}

        return Job(key_of("reconstructed", [decides, pictures.keys[chunk]]), make, pictures.sizes[chunk])

    done = worker.do([job(chunk) for chunk in range(len(pictures.keys))], "reconstructing pictures")
    return Reconstructed(torch.cat([part["features"] for part in done]), -10 * torch.cat([part["mse"] for part in done]).log10())
