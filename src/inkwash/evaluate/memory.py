"""Does the model copy its training pictures? The measurement, the pictures to show, and a proof that copies would be found.

The number is that of `inkwash.evaluate.metrics.memorization`. It could be small because nothing is copied, or because the features cannot see copies.
So canaries are planted: training pictures that went through the model's autoencoder, the best copies that the model could draw at all. The
share of canaries that is flagged is the power of the test; where it is low, no conclusion holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.codec import Pixels
from inkwash.data.item import Source, fingerprint_of
from inkwash.data.transform import Mode
from inkwash.evaluate.collect import Pictures, data_pictures, features
from inkwash.evaluate.extractors.features import Extractor
from inkwash.evaluate.metrics.interval import LEVEL, Estimate, proportion
from inkwash.evaluate.metrics.memorization import Memorization, memorization, nearest, ratios
from inkwash.evaluate.parts import reconstruct
from inkwash.evaluate.split import Split
from inkwash.evaluate.store import Job, Worker, key_of
from inkwash.pipeline import Pipeline

K, RATE, CANARIES, POWER = 50, 0.01, 32, 0.5
FRESH = 50                                                 # held-out pictures that can show a rate: each half must, see `memorization`


class Memory(NamedTuple):
    """What `memory` found. `shown` are samples, nearest to training first, each with the positions of its nearest training pictures."""

    found: Memorization
    canaries: Estimate                                     # share of planted copies that is flagged
    rate: float                                            # of false alarms that was asked for
    shown: tuple[tuple[int, tuple[int, ...]], ...]
    pictures: Pictures                                     # of training

    @property
    def conclusive(self) -> bool:
        """Whether most planted copies were found; otherwise the test says nothing about the model."""
        return self.canaries.value >= POWER


def memory(pipeline: Pipeline, parts: Split, samples: Pictures, sampled: Tensor, extractor: Extractor, worker: Worker, size: tuple[int, int],
           mode: Mode = "crop", level: float = LEVEL, *, shown: int = 8) -> Memory | None:
    """Of samples with features `sampled` (N, D). None when there are too few training pictures to say anything: fewer than 8."""
    assert parts.train is not None
    train: Source = parts.train
    if len(train) < 8:
        return None
    pictures = data_pictures(train, size, mode)
    known = features(extractor, pictures, worker, "training pictures")
    fresh = None
    if parts.held_out is not None and len(parts.held_out) >= FRESH:
        fresh = features(extractor, data_pictures(parts.held_out, size, mode), worker, "held-out pictures")
    k = min(K, len(train) - 1)
    rate = max(RATE, 1 / (len(known if fresh is None else fresh) // 2 + 1))
    found = memorization(sampled, known, fresh, k=k, rate=rate, level=level)
    planted = _canaries(pipeline, pictures, extractor, worker, train)
    flagged = int((ratios(nearest(planted, known, k)[0]) < found.threshold).sum())
    order = found.ratio.argsort()[:shown].tolist()
    index = nearest(sampled[order], known, min(3, k))[1]
    return Memory(found, proportion(flagged, len(planted), level, "training pictures through the autoencoder"), rate,
                  tuple((sample, tuple(index[row].tolist())) for row, sample in enumerate(order)), pictures)


def _canaries(pipeline: Pipeline, pictures: Pictures, extractor: Extractor, worker: Worker, train: Source) -> Tensor:
    """Features of evenly spread training pictures after encoding and decoding."""
    count = min(CANARIES, len(train))
    index = [i * len(train) // count for i in range(count)]

    def make() -> dict[str, Tensor]:
        images = pictures.take(index)
        return {"features": extractor(images if isinstance(pipeline.codec, Pixels) else reconstruct(pipeline, images))}

    decides = [pipeline.hash, str(pipeline.dtype), pipeline.device.type, extractor.hash, fingerprint_of("canaries", [train.fingerprint, index]),
               list(pictures.keys[:1])]
    return torch.cat([part["features"] for part in worker.do([Job(key_of("canaries", decides), make, count)], "planted copies")])
