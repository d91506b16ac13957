"""Scenes: does a picture show the objects, colours, numbers and places of a caption that training never had? Read by exact rules.

New scenes are drawn from the world that the model was trained on, the first where its card names several, narrowed to what the rules can read
(matte, soft light, nine colours), and only their captions are given to the model. Captions of one object, of two and of more are measured apart.
The true renderings of the same scenes, read against the same captions, say how well the judge reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mini_bench import Bench, Judged
from mini_result import Row
from torch import Tensor

from inkwash.data.heldout import Subset
from inkwash.data.item import Source
from inkwash.data.scenes.source import Scenes
from inkwash.data.scenes.wanted import Wanted
from inkwash.errors import UsageError
from inkwash.evaluate.collect import Pictures
from inkwash.evaluate.judges.adherence import SILHOUETTES
from inkwash.evaluate.judges.scene_words import scene_of
from inkwash.evaluate.judges.scenes import EASY, Verdict, bank, find, judge
from inkwash.evaluate.metrics.interval import proportion
from inkwash.evaluate.store import Job, key_of
from inkwash.request import Request

SEED = 20_261_121                                          # of the new scenes
DRAWS = 4000                                               # the most that are looked through
PATTERN = ("one object", "two objects", "one object", "two objects", "several")         # of captions, over and over
WORDS = ("object", "color", "count", "position", "binding", "right")
GOALS = {("one object", "object"): 0.8, ("one object", "color"): 0.8, ("two objects", "right"): 0.6}


def group_of(scene: Mapping[str, Any]) -> str:
    """Which word of PATTERN the labels of a scene belong to."""
    counts = [group["count"] for group in scene["objects"]]
    return {1: "one object", 2: "two objects"}[len(counts)] if set(counts) == {1} else "several"


def readable(wanted: Wanted) -> Wanted:
    """What of a world the judge can read. Raises UsageError `unreadable_scenes` when it is nothing."""
    kept = {name: tuple(word for word in getattr(wanted, name) if word in getattr(EASY, name)) for name in ("color", "material", "light")}
    if not all(kept.values()):
        raise UsageError("unreadable_scenes", "the model was trained on scenes that the judge cannot read: it needs matte ones, in soft light and in "
                                              f"{', '.join(EASY.color)}")
    return dataclasses.replace(wanted, **kept)


def captions_of(bench: Bench, scenes: Scenes) -> list[str]:
    """All captions of a source, drawn once and kept."""

    def job(start: int) -> Job:
        stop = min(start + 500, len(scenes))

        def make() -> dict[str, Tensor]:
            return {"text": torch.tensor(list("\n".join(scenes.caption(i) for i in range(start, stop)).encode()), dtype=torch.uint8)}

        return Job(key_of("captions", [scenes.fingerprint, start, stop]), make, stop - start)

    parts = bench.worker.do([job(start) for start in range(0, len(scenes), 500)], "captions of the training scenes")
    return [text for part in parts for text in bytes(part["text"].tolist()).decode().split("\n")]


def fresh(bench: Bench, num: int, left_out: bool = False) -> Source:
    """`num` new scenes with different captions that training never had, fewer where there are not so many.

    `left_out` takes only those that the patterns name; else none of them. Groups follow PATTERN, so a larger number goes on where a smaller one
    ended. Raises UsageError `no_scenes`.
    """
    if not bench.scenes:
        raise UsageError("no_scenes", "the card of the model names no drawn scenes in its data, so it knows none; measure the other parts")
    known = {text for world in bench.scenes for text in captions_of(bench, world)}
    source = Scenes(DRAWS, SEED, bench.size[0], readable(bench.scenes[0].wanted))
    places = {name: [at for at in range(num) if PATTERN[at % len(PATTERN)] == name] for name in PATTERN}
    chosen: dict[int, int] = {}
    for i in range(len(source)):
        text = source.caption(i)
        labels = scene_of(text)
        if labels is not None and text not in known and bench.leaves_out(text) == left_out and places[group_of(labels)]:
            known.add(text)
            chosen[places[group_of(labels)].pop(0)] = i
        if len(chosen) == num:
            break
    return Subset(source, [chosen[at] for at in sorted(chosen)])


def labels_of(caption: str) -> Mapping[str, Any]:
    """The labels of a caption that `fresh` chose."""
    labels = scene_of(caption)
    assert labels is not None
    return labels


def read(pictures: Pictures, captions: Sequence[str]) -> tuple[list[Verdict], list[str]]:
    """What holds of each caption, and what was found."""
    verdicts, seen = [], []
    images = (image for chunk in range(len(pictures.keys)) for image in pictures.pixels(chunk))
    for image, text in zip(images, captions, strict=True):
        found = find(image.permute(1, 2, 0).contiguous().numpy(), bank(image.shape[1], count=SILHOUETTES))
        verdicts.append(judge(found, labels_of(text)))
        seen.append(", ".join(f"{one.color} {one.shape}" for one in found) or "nothing")
    return verdicts, seen


def score(verdict: Verdict) -> float:
    """The share of what the caption says that holds."""
    told = [value for name in WORDS if name != "right" and (value := getattr(verdict, name)) is not None]
    return sum(told) / len(told)


def judged(bench: Bench, num: int, template: Request | None = None, source: Source | None = None) -> Judged:
    """Samples for the captions of `source`, new scenes unless given, right where all holds together."""
    scenes = source or fresh(bench, num)
    captions = [scenes.caption(i) for i in range(len(scenes))]
    made = bench.samples(captions, len(captions), "scenes", template)
    verdicts, seen = read(made.pictures, captions)
    return Judged(made, [verdict.right for verdict in verdicts], [score(verdict) for verdict in verdicts], seen)


def part(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    scenes = fresh(bench, num)
    captions = [scenes.caption(i) for i in range(len(scenes))]
    groups = [group_of(labels_of(text)) for text in captions]
    verdicts = read(bench.samples(captions, len(captions), "scenes").pictures, captions)[0]
    truths = read(bench.real(scenes), captions)[0]
    rows = []
    for group in dict.fromkeys(PATTERN):
        for word in WORDS:
            for what, among in (("", verdicts), (", true renderings", truths)):
                told = [value for verdict, name in zip(among, groups, strict=True) if name == group and (value := getattr(verdict, word)) is not None]
                if told:
                    rows.append(Row(f"{group}: {'all of it' if word == 'right' else word}{what}", proportion(sum(told), len(told)),
                                    GOALS.get((group, word)) if not what else None))
    return rows, [f"{len(captions)} captions of seed {SEED} that training never had; it had {', '.join(world.describe() for world in bench.scenes)}",
                  "the rows of true renderings are the judge's ceiling"]
