"""Garments: is a picture for "photo of a COLOR GARMENT" of that garment, in that colour? And how often are real photos what their captions say?

The captions are those of the training photos, as often as they occur there. The kind is named by the shipped classifier, which was trained on real
photos alone and apart from the model, the colour by a rule on pixels. Both err, and so do the captions of real photos, whose colours a program
named. So the same judges read the photos that the classifier never saw, and the pictures should agree with their captions at least as often.
"""

from __future__ import annotations

from collections.abc import Sequence

from mini_bench import Bench, Judged, by_hash, independent_card
from mini_result import Row

from inkwash.evaluate.collect import Pictures
from inkwash.evaluate.judges.adherence import asked
from inkwash.evaluate.judges.garments import names_color, names_garment
from inkwash.evaluate.metrics.interval import Estimate, proportion
from inkwash.evaluate.metrics.memorization import difference
from inkwash.evaluate.split import split
from inkwash.request import Request

KINDS = ("garment", "colour", "garment and colour")


def wanted(bench: Bench) -> list[str]:
    """Captions of one garment and one colour, in a fixed order, each as often as photos have it."""
    captions = (bench.clothing.caption(i) for i in range(len(bench.clothing)))
    return by_hash([text for text in captions if None not in asked(text)[:2] and not bench.leaves_out(text)])


def read(pictures: Pictures) -> list[tuple[str, str]]:
    """The garment and the colour that each picture shows."""
    found: list[tuple[str, str]] = []
    for chunk in range(len(pictures.keys)):
        pixels = pictures.pixels(chunk)
        found += zip(names_garment(pixels), names_color(pixels), strict=True)
    return found


def hits(seen: Sequence[tuple[str, str]], captions: Sequence[str]) -> list[tuple[bool, bool, bool]]:
    """Whether garment, colour, and both are as the caption says."""
    pairs = [(kind == wish.garment, colour == wish.color) for (kind, colour), wish in zip(seen, map(asked, captions), strict=True)]
    return [(kind, colour, kind and colour) for kind, colour in pairs]


def judged(bench: Bench, num: int, template: Request | None = None, captions: Sequence[str] | None = None) -> Judged:
    """Samples with both right or not; the score is the share that is right."""
    made = bench.samples(captions or wanted(bench), num, "garments", template)
    seen = read(made.pictures)
    found = hits(seen, [request.prompt for request in made.requests])
    score = [(kind + colour) / 2 for kind, colour, _ in found]
    return Judged(made, [both for *_, both in found], score, [f"{colour} {kind}" for kind, colour in seen])


def shares(found: Sequence[tuple[bool, bool, bool]]) -> list[Estimate]:
    """The share that is right, of each of KINDS."""
    return [proportion(sum(column), len(column)) for column in zip(*found, strict=True)]


def part(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    made = judged(bench, num)
    of_samples = shares(hits(read(made.samples.pictures), [request.prompt for request in made.samples.requests]))
    unseen = split(bench.clothing, independent_card(), None).held_out
    assert unseen is not None
    captions = [unseen.caption(i) for i in range(len(unseen))]
    of_photos = shares(hits(read(bench.real(unseen)), captions))
    rows = []
    for kind, here, there in zip(KINDS, of_samples, of_photos, strict=True):
        rows += [Row(f"{kind} as asked", here, there.value), Row(f"{kind}: real photos that the judge never saw", there),
                 Row(f"{kind}: pictures less photos", difference(here, there))]
    return rows, [f"{len(unseen)} photos that were held out when the features and the classifier were trained; the goal is their share"]
