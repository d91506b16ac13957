"""What every part of the benchmark of `mini` works with: the model, real pictures, the independent features, and a store of what was made.

Pictures are named by model and request, so a stopped run goes on and a larger one keeps what a smaller one made. Captions are taken in an order that
is fixed by hashes, so nobody chose them.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from inkwash.data.heldout import Subset, bound
from inkwash.data.item import Source
from inkwash.data.scenes.source import Scenes, open_scenes
from inkwash.data.source import Concat, open_source
from inkwash.evaluate.collect import Pictures, Samples, data_pictures, features, requests_for, sample
from inkwash.evaluate.extractors.features import Extractor
from inkwash.evaluate.extractors.load import load_extractor
from inkwash.evaluate.extractors.network import embedded
from inkwash.evaluate.split import Split, split
from inkwash.evaluate.store import Store, Worker
from inkwash.pipeline import Pipeline
from inkwash.request import Request


class Judged(NamedTuple):
    """Samples and what a judge says of each: whether it is as asked, a score in 0..1 that orders failures, and what was seen instead."""

    samples: Samples
    right: list[bool]
    score: list[float]
    seen: list[str]


@dataclass
class Bench:
    """`template` holds the settings of all samples; `left_out` are the patterns of captions that training did not get."""

    pipeline: Pipeline
    extractor: Extractor
    worker: Worker
    template: Request
    emoji: Source
    clothing: Source
    left_out: tuple[re.Pattern[str], ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.template.width, self.template.height

    @cached_property
    def scenes(self) -> list[Scenes]:
        """The drawn scenes that the model was trained on, by its card."""
        names = [name.partition("*")[0] for name in self.pipeline.info.card.get("data", []) if name.startswith("scenes:")]
        return [open_scenes(name) for name in names]

    @cached_property
    def held_out(self) -> tuple[str, str]:
        """The rank up to which training held pictures out, and how that is known."""
        known = split(Concat([self.emoji, self.clothing, *self.scenes]), self.pipeline.info.card, None)
        assert known.held_out is not None
        return bound(known.held_out), known.rule

    def split(self, sources: Sequence[Source]) -> Split:
        """What of these sources training had, without what was left out, and what it held out."""
        limit, rule = self.held_out
        train, held_out, _ = split(Concat(sources), {}, limit)
        assert train is not None
        return Split(Subset(train, [i for i in range(len(train)) if not self.leaves_out(train.caption(i))]), held_out, rule)

    def leaves_out(self, caption: str) -> bool:
        return any(pattern.search(caption) for pattern in self.left_out)

    def samples(self, captions: Sequence[str], num: int, what: str, template: Request | None = None) -> Samples:
        """`num` pictures of the captions, from the start again when they run out, with the seeds 0, 1, ..."""
        return sample(self.pipeline, requests_for(template or self.template, captions, num, 0), self.worker, what)

    def features(self, pictures: Pictures, what: str) -> Tensor:
        """(N, D), of the extractor that no part of the model was trained with."""
        return features(self.extractor, pictures, self.worker, what)

    def real(self, source: Source) -> Pictures:
        return data_pictures(source, self.size)


def by_hash(captions: Sequence[str]) -> list[str]:
    """The captions in an order that their positions and texts fix."""
    return [text for _, text in sorted(enumerate(captions), key=lambda pair: hashlib.sha256(f"benchmark {pair[0]} {pair[1]}".encode()).digest())]


def tell(done: int, total: int, what: str) -> None:
    """Progress: a line that is overwritten on a terminal, elsewhere one at the end."""
    if sys.stderr.isatty() or done == total:
        print(f"\r{what}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def open_bench(model: str, emoji: str, clothing: str, patterns: Sequence[str] | None, folder: Path) -> Bench:
    """The bench; what is made is kept in `folder`. Without `patterns` the model's card says what was left out of training."""
    pipeline = Pipeline.from_pretrained(model)
    patterns = pipeline.info.card.get("left_out", []) if patterns is None else patterns
    default, (width, height) = pipeline.info.defaults, pipeline.info.sizes.default
    template = Request("", "", 0, default.steps, default.sampler, default.spacing, default.guidance, width, height)
    return Bench(pipeline, load_extractor("ink"), Worker(Store(folder), progress=tell), template, open_source(emoji), open_source(clothing),
                 tuple(re.compile(pattern) for pattern in patterns))


def independent_card() -> dict[str, Any]:
    """The card of the shipped features and classifier of garments: what they were trained on, and which pictures they never saw."""
    card: dict[str, Any] = json.loads((embedded() / "features.json").read_text("utf-8"))["card"]
    return card
