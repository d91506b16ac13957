"""Random requests that differ in everything a request can differ in, for the tests and benchmarks of the engine."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from inkwash import Image, Pipeline, Request
from inkwash.errors import UsageError
from inkwash.sample import Sampler
from inkwash.value import alias_table

PROMPTS = ("a small red cube", "two green cones", "emoji of a cat", "a black leather jacket", "a blue sphere left of a cone", "")
GUIDANCE: tuple[float | str, ...] = (1.0, 1.0, 0.0, 2.5, 4.0, 7.5, "CFG(scale=4.0, interval=Interval(0.5, 3.0))",
                                      "CFG(scale=6.0, then=(Rescale(0.7),))")
SPACINGS = ("trailing", "leading", "karras", "linspace")


def mixed(pipe: Pipeline, seed: int, sizes: list[tuple[int, int]], most_steps: int = 50) -> Iterator[Request]:
    """Requests without end, all of them such that the model can make them. Half of them have at most 6 steps, the others up to `most_steps`."""
    draw = random.Random(seed)
    samplers = list(alias_table(Sampler))  # type: ignore[type-abstract]
    while True:
        steps = draw.randint(1, min(6, most_steps)) if draw.random() < 0.5 else draw.randint(1, most_steps)
        width, height = draw.choice(sizes)
        request = Request(draw.choice(PROMPTS), draw.choice(("", "", *PROMPTS[:3])), draw.randrange(2**32), steps, draw.choice(samplers),
                          draw.choice(SPACINGS), draw.choice(GUIDANCE), width, height)
        try:
            pipe.program(request)
        except UsageError:
            continue                                       # some samplers refuse some numbers of steps
        yield request


def pixel_hash(image: Image) -> str:
    """SHA-256 of the pixels."""
    assert image.pixels is not None
    return hashlib.sha256(image.pixels.numpy().tobytes()).hexdigest()
