"""Does an image depend on its request alone, here and now?

Kernels may add in another order when a row stands elsewhere in a batch, when its neighbours differ, or when other threads share the work;
whether they do depends on the processor, the library and the dtype. So it is tried: one row of the denoiser is computed in every slot of the
fixed micro-batch, beside several neighbours and with several numbers of threads, and all answers must have the same bits; likewise the
decoder and the text encoder. `certified` tries other sizes of a call, and takes their time. Both make the products of the networks again on
numbers that rounding does not hide (provoke.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Clean, Level
from inkwash.provoke import products

if TYPE_CHECKING:
    from inkwash.pipeline import Pipeline

PROMPTS = ("a small red cube", "two blue spheres beside a tall green cone in soft light", "")
THREADS = (1, 2, 3)


@torch.no_grad()
def same_bits(pipeline: Pipeline) -> bool:
    """True when one row has the same bits in every slot, beside every neighbour, with any number of threads and on a second try."""
    conds = pipeline.conditioner(PROMPTS).to(pipeline.device)
    again = pipeline.conditioner(PROMPTS[::-1]).to(pipeline.device).take([2, 1, 0])
    if any(not torch.equal(conds[name], again[name]) for name in conds):
        return False
    x, level = _samples(pipeline, 3, pipeline.codec.shape(*pipeline.info.sizes.default))
    size = pipeline.micro_batch
    places = [[0 if i == slot else other for i in range(size)] for slot, other in ((0, 0), (0, 1), (size - 1, 1), (0, 2))]

    def answers() -> list[Tensor]:
        return [_rows(pipeline, x, level, conds, place)[place.index(0)] for place in places]

    def rest() -> list[Tensor]:
        return [pipeline.codec.decode(Clean(x[:1])), *pipeline.conditioner(PROMPTS[:1]).to(pipeline.device).values()]

    ((first, *others), fixed), awkward = products((pipeline.conditioner, pipeline.codec, *_networks(pipeline)), lambda: (answers(), rest()))

    def provoked() -> list[Tensor]:
        return [product.rows(1, 1) for product in awkward]

    shown, number = provoked(), torch.get_num_threads()
    same = all(torch.equal(first, answer) for answer in others)
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            same = same and all(torch.equal(first, answer) for answer in answers()[1:3]) and all(map(torch.equal, fixed + shown, rest() + provoked()))
    finally:
        torch.set_num_threads(number)
    return same


@torch.no_grad()
def certified(pipeline: Pipeline, shape: tuple[int, ...], most: int) -> dict[int, float]:
    """Seconds of a network call of each size up to `most` that gives x of `shape` the bits of `micro_batch`, which comes first.

    Tried are 1, 2, 4, .. rows, on as many different rows as the largest has. With a classifier there is one size: a gradient has products that
    are not seen.
    """
    size = pipeline.micro_batch
    count = max(size, most) // size * size
    conds = pipeline.conditioner(PROMPTS).to(pipeline.device).take([i % len(PROMPTS) for i in range(count)])
    x, level = _samples(pipeline, count, shape)

    def answer(size: int) -> tuple[Tensor, float]:
        found, times = [], []
        for start in range(0, count, size):
            began = time.perf_counter()
            found.append(_rows(pipeline, x, level, conds, list(range(start, start + size))))
            if pipeline.device.type == "cuda":
                torch.cuda.synchronize(pipeline.device)
            times.append(time.perf_counter() - began)
        return torch.cat(found), min(times)

    _, awkward = products(_networks(pipeline), lambda: answer(count))   # and the first call of a shape, which is slow
    awkward = [product for product in awkward if len(product.x) % count == 0]       # the others are of no rows
    reference, seconds = answer(size)
    sizes = {size: seconds}
    if pipeline.determinism == "exact" and pipeline.classifier is None:
        for other in (1 << k for k in range(count.bit_length())):
            if other != size and count % other == 0:
                found, seconds = answer(other)
                if torch.equal(found, reference) and all(torch.equal(product.rows(count, other), product.rows(count, size)) for product in awkward):
                    sizes[other] = seconds
    return sizes


def _networks(pipeline: Pipeline) -> tuple[nn.Module, ...]:
    return tuple(one for one in (pipeline.denoiser, pipeline.weak, pipeline.classifier) if isinstance(one, nn.Module))


def _samples(pipeline: Pipeline, count: int, shape: tuple[int, ...]) -> tuple[Tensor, Level]:
    """Noise at levels from clean to noisy."""
    x = torch.stack([noise.normal(shape, 0, i, 0, "self-test") for i in range(count)]).to(pipeline.device)
    return x, pipeline.schedule.gauge.split(torch.linspace(-1.0, 1.5, count, dtype=torch.float64))


def _rows(pipeline: Pipeline, x: Tensor, level: Level, conds: Cond, place: list[int]) -> Tensor:
    """What every model answers for the samples at `place`, (n, models, ...)."""
    told = {**conds.take(place), **({"guidance": torch.full((len(place),), 4.0)} if pipeline.distilled else {})}
    label = {"label": torch.zeros(len(place), dtype=torch.long, device=pipeline.device)}
    part = x[place], level.take(torch.tensor(place))
    return torch.stack([model(*part, Cond(label if name == "classifier" else told, len(place))) for name, model in pipeline.models.items()], dim=1)
