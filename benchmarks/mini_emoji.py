"""Emoji: which real emoji is nearest to the picture for a name, in features that the model was not trained with?

Of all real emoji the nearest by Euclidean distance must bear the asked name, or one that differs by skin tone or gender only. How far the
features and the autoencoder allow that at all is said by the asked emoji themselves after the autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mini_bench import Bench, Judged, by_hash
from mini_names import same
from mini_result import Row
from torch import Tensor

from inkwash.data.heldout import Subset
from inkwash.evaluate.metrics.interval import proportion
from inkwash.evaluate.parts import reconstructed
from inkwash.request import Request

GOAL = 0.75


def all_captions(bench: Bench) -> list[str]:
    return [bench.emoji.caption(i) for i in range(len(bench.emoji))]


def wanted(bench: Bench) -> list[str]:
    """All names that were not left out of training, in a fixed order."""
    return by_hash([text for text in all_captions(bench) if not bench.leaves_out(text)])


def name_of(caption: str) -> str:
    return caption.removeprefix("emoji of ")


def gallery(bench: Bench) -> Tensor:
    """Features (M, D) of all real emoji."""
    return bench.features(bench.real(bench.emoji), "features of real emoji")


def judged(bench: Bench, num: int, template: Request | None = None, captions: Sequence[str] | None = None) -> Judged:
    """The score is the distance to the nearest emoji as a part of the distance to the asked one: 1 where they are the same."""
    texts = wanted(bench) if captions is None else captions
    made = bench.samples(texts, min(num, len(texts)), "emoji", template)
    names = all_captions(bench)
    where = {text: i for i, text in enumerate(names)}
    far = torch.cdist(bench.features(made.pictures, "features of emoji").double(), gallery(bench).double())        # (N, M)
    near, index = far.min(1)
    asked = [request.prompt for request in made.requests]
    seen = [name_of(names[i]) for i in index.tolist()]
    to_asked = far[torch.arange(len(far)), torch.tensor([where[text] for text in asked])].clamp(min=1e-12)
    return Judged(made, [same(name_of(text), name) for text, name in zip(asked, seen, strict=True)], (near / to_asked).tolist(), seen)


def exact(found: Judged) -> list[bool]:
    """Whether the nearest emoji bears the very name."""
    return [name_of(request.prompt) == name for request, name in zip(found.samples.requests, found.seen, strict=True)]


def part(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    found = judged(bench, num)
    names = all_captions(bench)
    chosen = [names.index(request.prompt) for request in found.samples.requests]
    rebuilt = reconstructed(bench.pipeline, bench.real(Subset(bench.emoji, chosen)), bench.extractor, bench.worker).features
    back = torch.cdist(rebuilt.double(), gallery(bench).double()).argmin(1).tolist()
    ceiling = [same(name_of(names[i]), name_of(names[j])) for i, j in zip(chosen, back, strict=True)]
    rows = [Row("the nearest emoji has the name but for skin tone and gender", proportion(sum(found.right), len(found.right)), GOAL),
            Row("the nearest emoji has the very name", proportion(sum(exact(found)), len(found.right))),
            Row("the asked emoji through the autoencoder, but for skin tone and gender", proportion(sum(ceiling), len(ceiling)))]
    return rows, [f"nearest of {len(names)} emoji; names in the order of their hashes, none left out of training"]
