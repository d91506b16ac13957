"""Does an image depend on its request alone, here and now?

Kernels may add in another order when a row stands elsewhere in a batch or when its neighbours differ; whether they do depends on the
processor, the library and the dtype. So it is tried: one row of the denoiser is computed in every slot of the fixed micro-batch, beside
several neighbours, and all answers must have the same bits; likewise the decoder and the text encoder twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Clean, Level

if TYPE_CHECKING:
    from inkwash.pipeline import Pipeline

PROMPTS = ("a small red cube", "two blue spheres beside a tall green cone in soft light", "")


@torch.inference_mode()
def same_bits(pipeline: Pipeline) -> bool:
    """True when one row has the same bits in every slot, beside every neighbour and on a second try."""
    conds = pipeline.conditioner(PROMPTS).to(pipeline.device)
    again = pipeline.conditioner(PROMPTS[::-1]).to(pipeline.device).take([2, 1, 0])
    if any(not torch.equal(conds[name], again[name]) for name in conds):
        return False
    x, level = _samples(pipeline, 3)
    size = pipeline.micro_batch
    places = [[0 if i == slot else other for i in range(size)] for slot, other in ((0, 0), (0, 1), (size - 1, 1), (0, 2))]
    answers = [_rows(pipeline, x, level, conds, place)[place.index(0)] for place in places]
    if any(not torch.equal(answers[0], answer) for answer in answers):
        return False
    clean = Clean(x[:1])
    return torch.equal(pipeline.codec.decode(clean), pipeline.codec.decode(clean))


@torch.inference_mode()
def certified(pipeline: Pipeline) -> tuple[int, ...]:
    """The sizes of a network call, `micro_batch` first, at which eight different rows have the bits that they have at `micro_batch`."""
    conds = pipeline.conditioner([PROMPTS[i % len(PROMPTS)] for i in range(8)]).to(pipeline.device)
    x, level = _samples(pipeline, 8)

    def answer(size: int) -> Tensor:
        return torch.cat([_rows(pipeline, x, level, conds, list(range(start, start + size))) for start in range(0, 8, size)])

    size = pipeline.micro_batch
    if 8 % size or 2 * size > 8 or pipeline.determinism != "exact":
        return (size,)
    reference = answer(size)
    return (size, *(larger for larger in (2 * size, 4 * size) if larger <= 8 and torch.equal(answer(larger), reference)))


def _samples(pipeline: Pipeline, count: int) -> tuple[Tensor, Level]:
    """Noise at levels from clean to noisy."""
    shape = pipeline.codec.shape(*pipeline.info.sizes.default)
    x = torch.stack([noise.normal(shape, 0, i, 0, "self-test") for i in range(count)]).to(pipeline.device)
    return x, pipeline.schedule.gauge.split(torch.linspace(-1.0, 1.5, count, dtype=torch.float64))


def _rows(pipeline: Pipeline, x: Tensor, level: Level, conds: Cond, place: list[int]) -> Tensor:
    cond = conds.take(place)
    if pipeline.distilled:
        cond = Cond({**cond, "guidance": torch.full((len(place),), 4.0)}, len(place))
    found: Tensor = pipeline.denoiser(x[place], level.take(torch.tensor(place)), cond)
    return found
