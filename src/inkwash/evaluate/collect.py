"""The pictures that are measured: samples of a model, pictures of a data set, and their features.

Sets are cut into chunks of CHUNK images, whatever their number and whoever makes them. A chunk of samples is named by the model's hash, the
numbers' format and its requests, a chunk of data by the data's fingerprint and its positions, so both are made once and found again.
Image i of every set of samples has the i-th caption (from the start again when they run out; of captions in one fixed random order when there are
more of them than images) and the seed `first + i`: two settings or two models that are measured on as many images have the same captions and
the same noise, and can be compared in pairs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash._version import __version__
from inkwash.data.item import Source
from inkwash.data.transform import Mode, decode, fit
from inkwash.evaluate.extractors.features import Extractor
from inkwash.evaluate.store import Job, Worker, key_of
from inkwash.pipeline import Pipeline
from inkwash.request import Request, as_dict

CHUNK = 16


class Pictures(NamedTuple):
    """A set of images in chunks: a name for each and a function that gives its pixels, uint8 (b, 3, H, W)."""

    keys: tuple[str, ...]
    sizes: tuple[int, ...]
    pixels: Callable[[int], Tensor]

    def __len__(self) -> int:
        return sum(self.sizes)

    def take(self, index: Sequence[int]) -> Tensor:
        """The images at these positions, uint8 (n, 3, H, W); each chunk is read once."""
        held: dict[int, Tensor] = {}
        for chunk in {i // CHUNK for i in index}:
            held[chunk] = self.pixels(chunk)
        return torch.stack([held[i // CHUNK][i % CHUNK] for i in index])


class Samples(NamedTuple):
    """What a model made of `requests`: images, network evaluations (N,), and seconds for all, decoding included."""

    requests: tuple[Request, ...]
    pictures: Pictures
    nfe: Tensor
    seconds: float


def requests_for(template: Request, captions: Sequence[str], count: int, first: int) -> tuple[Request, ...]:
    """`count` requests with the settings of `template`: captions in order and from the start again, seeds first, first + 1, ...

    Data of several sources has their captions one source after the other. So fewer requests than captions take a random part of them, and more
    requests a larger one with the same beginning.
    """
    if count < len(captions):
        captions = [captions[i] for i in torch.randperm(len(captions), generator=torch.Generator().manual_seed(0)).tolist()]
    return tuple(dataclasses.replace(template, prompt=captions[i % len(captions)], seed=first + i) for i in range(count))


def sample_jobs(pipeline: Pipeline, requests: Sequence[Request]) -> list[Job]:
    """One job per chunk of samples: pixels (b, 3, H, W) uint8, nfe (b,), seconds ()."""
    decides = [pipeline.hash, pipeline.companions, str(pipeline.dtype), pipeline.device.type, __version__, torch.__version__]

    def job(part: Sequence[Request]) -> Job:
        def make() -> dict[str, Tensor]:
            began = time.perf_counter()
            images = pipeline.generate(part)
            pixels = torch.stack([image.pixels for image in images if image.pixels is not None])
            return {"pixels": pixels, "nfe": torch.tensor([image.nfe for image in images]),
                    "seconds": torch.tensor(time.perf_counter() - began, dtype=torch.float64)}

        return Job(key_of("samples", [decides, [as_dict(request) for request in part]]), make, len(part))

    return [job(requests[start : start + CHUNK]) for start in range(0, len(requests), CHUNK)]


def sample(pipeline: Pipeline, requests: Sequence[Request], worker: Worker, what: str) -> Samples:
    """Makes the images of `requests`, or finds them."""
    jobs = sample_jobs(pipeline, requests)
    made = worker.do(jobs, what)

    def pixels(chunk: int) -> Tensor:
        return _stored(worker, jobs[chunk])["pixels"]

    pictures = Pictures(tuple(job.key for job in jobs), tuple(job.images for job in jobs), pixels)
    return Samples(tuple(requests), pictures, torch.cat([part["nfe"] for part in made]), sum(float(part["seconds"]) for part in made))


def data_pictures(source: Source, size: tuple[int, int], mode: Mode = "crop") -> Pictures:
    """The images of a data set, decoded when they are asked for, fitted to `size` (width, height). Raises DataError for a damaged one."""
    width, height = size
    parts = [range(start, min(start + CHUNK, len(source))) for start in range(0, len(source), CHUNK)]

    def pixels(chunk: int) -> Tensor:
        return torch.stack([fit(decode(source[i], hint=max(size)), (height, width), mode) for i in parts[chunk]])

    return Pictures(tuple(key_of("data", [source.fingerprint, size, mode, part.start, part.stop]) for part in parts), tuple(map(len, parts)), pixels)


def features(extractor: Extractor, pictures: Pictures, worker: Worker, what: str) -> Tensor:
    """Features (N, D) float32 of all images, in order."""

    def job(chunk: int) -> Job:
        return Job(key_of("features", [extractor.hash, pictures.keys[chunk]]), lambda: {"features": extractor(pictures.pixels(chunk))},
                   pictures.sizes[chunk])

    return torch.cat([part["features"] for part in worker.do([job(chunk) for chunk in range(len(pictures.keys))], what)])


def _stored(worker: Worker, job: Job) -> dict[str, Tensor]:
    """The result of a job that was done; made again when its file was lost meanwhile."""
    found = worker.store.get(job.key)
    if found is None:
        found = job.make()
        worker.store.put(job.key, found)
    return found
