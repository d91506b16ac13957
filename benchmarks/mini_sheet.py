"""Sheets of pictures that nobody chose: the first 24 seeds of fixed prompts, the worst by the judges, samples beside the nearest of training.

The prompts were written down before a picture of the model was made. Failures are the samples of the other parts with the lowest scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import mini_emoji
import mini_garments
import mini_scenes
import PIL.Image
from mini_bench import Bench, Judged
from mini_pictures import memories

from inkwash.cli.sheet import PAPER, draw
from inkwash.evaluate.collect import sample
from inkwash.output import to_pil

PROMPTS = ("emoji of a red heart", "emoji of woman firefighter", "photo of a navy skirt", "photo of a red t-shirt", "a large red sphere, soft light",
           "a small green cube left of a large blue cylinder")
SEEDS, ACROSS, WORST = 24, 12, 12


def stacked(strips: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """The strips one below the other."""
    sheet = PIL.Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def first_seeds(bench: Bench) -> PIL.Image.Image:
    """PROMPTS with the seeds 0 to 23, in two rows each."""
    requests = [dataclasses.replace(bench.template, prompt=prompt, seed=seed) for prompt in PROMPTS for seed in range(SEEDS)]
    made = sample(bench.pipeline, requests, bench.worker, "the first seeds")
    pictures = [to_pil(image) for image in made.pictures.take(range(len(requests)))]
    rows = [f"from {start}: {prompt}" for prompt in PROMPTS for start in range(0, SEEDS, ACROSS)]
    return draw(pictures, [f"seed + {i}" if i else "seed" for i in range(ACROSS)], rows)


def worst(found: Judged, count: int) -> list[int]:
    """The numbers of the samples with the lowest scores that are not right, lowest first; of equal scores the first."""
    return sorted((i for i, right in enumerate(found.right) if not right), key=lambda i: found.score[i])[:count]


def failures(bench: Bench, num: int) -> PIL.Image.Image:
    """The worst of `num` samples of each kind, with what was asked and what the judge saw."""
    kinds = [mini_emoji.judged(bench, num), mini_garments.judged(bench, num), *([mini_scenes.judged(bench, num)] if bench.scenes else [])]
    strips = []
    for found in kinds:
        if chosen := worst(found, WORST):
            pictures = [to_pil(image) for image in found.samples.pictures.take(chosen)]
            below = [PIL.Image.new("RGB", (bench.size[0], 1), PAPER)] * len(chosen)
            strips += [draw(pictures, [found.samples.requests[i].prompt for i in chosen], None),
                       draw(below, [f"seen: {found.seen[i]}" for i in chosen], None)]
    return stacked(strips) if strips else draw([PIL.Image.new("RGB", (128, 128), PAPER)], ["no failure"], None)


def copies(bench: Bench, num: int) -> PIL.Image.Image:
    """Of each kind the samples nearest to a training picture, over that picture."""
    strips = []
    for made, one in memories(bench, num).values():
        samples, nearest = [number for number, _ in one.shown], [near[0] for _, near in one.shown]
        pictures = [*made.pictures.take(samples), *one.pictures.take(nearest)]
        strips.append(draw([to_pil(image) for image in pictures], [made.requests[i].prompt for i in samples], ["sample", "nearest of training"]))
    return stacked(strips)


def write(bench: Bench, num: int, folder: Path) -> list[Path]:
    """All sheets, as mini-seeds.png, mini-failures.png and mini-copies.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {"seeds": first_seeds(bench), "failures": failures(bench, num), "copies": copies(bench, num)}
    for name, sheet in sheets.items():
        sheet.save(folder / f"mini-{name}.png", optimize=True)
    return [folder / f"mini-{name}.png" for name in sheets]
