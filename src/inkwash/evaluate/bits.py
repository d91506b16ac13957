"""How many bits a picture costs under the model, exactly by the probability flow and from above by the variational bound.

Both are densities of the space in which the model diffuses. On pixels, 8-bit values with uniform noise of one level added (Theis et al.
2016, arXiv 1511.01844) make the density a bound of the probability of the picture, in bits per colour value. On latents there is no such thing:
the number is nats per latent number, depends on the scale of the latents, and compares models of one autoencoder only.
Every picture is taken with its caption. The divergence is estimated with random probes, so the exact value has noise, but no bias.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.codec import Pixels
from inkwash.core import noise
from inkwash.core.spacing import LogSNR
from inkwash.errors import UsageError
from inkwash.evaluate.collect import Pictures
from inkwash.evaluate.denoisers.likelihood import log_likelihood, variational_bound
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, mean_interval
from inkwash.evaluate.store import Job, Worker, key_of
from inkwash.pipeline import Pipeline

BATCH = 8
BIN = 2 / 255                                              # one level of 8-bit pixels in -1..1


class Bits(NamedTuple):
    """Cost per dimension, both in `unit`: "bits per colour value" on pixels, "nats per latent number" on latents."""

    flow: Estimate
    bound: Estimate
    unit: str
    flow_steps: int
    bound_steps: int
    probes: int


def require_count(count: int, pictures: int) -> None:
    """Raises UsageError `too_few` unless 2 <= count <= pictures."""
    if count < 2 or count > pictures:
        raise UsageError("too_few", f"bits per dimension need 2..{pictures} pictures, got {count}; change --bits")


def bits(pipeline: Pipeline, pictures: Pictures, captions: list[str], worker: Worker, *, count: int, flow_steps: int = 12, bound_steps: int = 48,
         probes: int = 1, seed: int = 0, level: float = LEVEL) -> Bits:
    """The cost of the first `count` pictures with their captions. Raises UsageError `too_few` below 2, `not_saved`."""
    require_count(count, len(pictures))
    exact = pipeline if pipeline.dtype == torch.float32 else Pipeline.from_pretrained(_folder(pipeline), device=pipeline.device, dtype=torch.float32)
    on_pixels = isinstance(pipeline.codec, Pixels)
    path = LogSNR().levels(exact.schedule, bound_steps)
    decides = [pipeline.hash, pipeline.device.type, flow_steps, bound_steps, probes, seed, count]

    def job(start: int) -> Job:
        index = list(range(start, min(start + BATCH, count)))

        def make() -> dict[str, Tensor]:
            images = pictures.take(index)
            x0 = dequantised(images, index, seed) if on_pixels else exact.codec.encode(images.to(exact.device)).x.float()
            cond = exact.conditioner([captions[i] for i in index]).to(exact.device)
            flow = log_likelihood(exact.denoiser, exact.schedule, x0.to(exact.device), cond, steps=flow_steps, probes=probes, seed=seed + start)
            bound = variational_bound(exact.denoiser, path, x0.to(exact.device), cond, seed=seed + start)
            return {"flow": flow.log_prob / x0[0].numel(), "bound": -bound.total / x0[0].numel()}

        return Job(key_of("bits", [decides, start, [pictures.keys[i // 16] for i in index]]), make, len(index))

    done = worker.do([job(start) for start in range(0, count, BATCH)], "likelihoods")
    found = [torch.cat([part[name] for part in done]) for name in ("flow", "bound")]      # (count,) nats per dimension, log density
    cost = [-value / math.log(2) - math.log2(BIN) if on_pixels else -value for value in found]
    unit = "bits per colour value" if on_pixels else "nats per latent number"
    note = "dequantised with uniform noise" if on_pixels else "in latent space: not bits per pixel, and only for models of one autoencoder"
    return Bits(mean_interval(cost[0], level, note), mean_interval(cost[1], level, note), unit, flow_steps, bound_steps, probes)


def dequantised(images: Tensor, index: list[int], seed: int) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 in -1..1 with uniform noise of one level, a function of (seed, position)."""
    spread = torch.stack([noise.uniform(tuple(image.shape), seed, i, 0, "dequantise") for i, image in zip(index, images, strict=True)])
    return ((images.double() + spread.double() - 0.5) / 127.5 - 1).float()


def _folder(pipeline: Pipeline) -> str:
    if pipeline.source is None:
        raise UsageError("not_saved", "a model that was not loaded from a folder cannot be evaluated; save it and load it")
    return str(pipeline.source)
