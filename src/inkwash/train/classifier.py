"""Training a classifier of noisy samples, for classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233, section 4.1).

    L = -log p(class | x_t, level),   x_t = alpha x0 + sigma eps

Its gradient by x_t moves samples towards a class at every noise level, which a classifier of clean images cannot do. Classes are found
in the captions: an item belongs to the one whose name, as whole words, its caption contains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.companion import class_of, save_classes
from inkwash.core.coordinate import Angle
from inkwash.core.level import Gauge, rescale
from inkwash.core.noise import generator
from inkwash.data.heldout import Subset, divide
from inkwash.data.item import Source
from inkwash.data.source import Mixture
from inkwash.errors import DataError
from inkwash.io.folder import save_part
from inkwash.train.config import ClassifierRun
from inkwash.train.diffusion import NUM_BINS, Examples
from inkwash.train.features import Features, read_codec
from inkwash.train.setting import Setting
from inkwash.train.task import Draw, Loss

ROLE = "classifier"


def labelled(source: Source, classes: Sequence[str]) -> Source:
    """The items whose caption names one class, as often as `source` has them. Raises DataError `no_classes` when a class has none."""
    base = source.base if isinstance(source, Mixture) else source
    found = {i: class_of(base.caption(i), classes) for i in range(len(base))}
    for number, name in enumerate(classes):
        if number not in found.values():
            raise DataError("no_classes", f"no caption names the class {name!r} alone; correct `classes` or name other data")
    if base is not source:
        return divide(source, {i for i, number in found.items() if number is None})[0]
    return Subset(base, [i for i, number in found.items() if number is not None])


class ClassifierTask:
    """Trains `config.network`, a ClassifierConfig, on samples in model space. It sees x in the VP gauge and the noise as an Angle."""

    def __init__(self, config: ClassifierRun, setting: Setting) -> None:
        self.config = config
        self.setting = dataclasses.replace(setting, train=labelled(setting.train, config.classes),
                                           validation=_known(setting.validation, config.classes))
        self.codec = read_codec(config.autoencoder).to(setting.device)
        self.network: nn.Module = config.network.build().to(memory_format=torch.channels_last)
        self.roles = {ROLE: self.network}
        self.features = Features(config, self.setting, self.codec, None)
        self.fingerprint = self.features.fingerprint
        self.coordinate = Angle()

    def batch(self, micro_step: int) -> Examples:
        return Examples(*self.features.batch(micro_step))

    def keys(self, batch: Examples) -> list[str]:
        return [self.features.key(int(i)) for i in batch.index]

    def labels(self, source: Source, index: Tensor) -> Tensor:
        """Class numbers (B,) of items."""
        return torch.tensor([class_of(source.caption(int(i)), self.config.classes) for i in index], device=self.setting.device)

    def logits(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(B, classes) at times t (B,)."""
        level = self.config.process(t)
        x, level = rescale(level.mix(x0, eps), level, Gauge.VP)
        return self.network(x.to(memory_format=torch.channels_last), self.coordinate(level).to(x)).float()

    def losses(self, batch: Examples, draw: Draw) -> Iterator[Loss]:
        t = self.config.levels.times(draw.uniform((), "level"), draw.position, draw.total)
        eps = draw.normal(tuple(batch.x0.shape[1:]), "noise").to(batch.x0)
        labels = self.labels(self.features.loader.base, batch.index)
        logits = self.logits(batch.x0, t, eps)
        yield Loss(ROLE, F.cross_entropy(logits, labels, reduction="none"), {"accuracy": (logits.argmax(1) == labels).float()})

    def compile(self) -> None:
        self.network.compile()

    def validate(self) -> dict[str, float]:
        """Cross-entropy and accuracy of held-out samples by level, at fixed noise."""
        held_out = self.features.held_out(128)
        if held_out is None or self.setting.validation is None:
            return {}
        examples = Examples(*held_out)
        labels = self.labels(self.setting.validation, examples.index)
        eps = torch.randn(examples.x0.shape, generator=generator(0, 0, 0, "validation")).to(examples.x0)
        found: dict[str, float] = {}
        for k in range(NUM_BINS):
            logits = self.logits(examples.x0, torch.full((len(eps),), (k + 0.5) / NUM_BINS, dtype=torch.float64), eps)
            found[f"accuracy_t{k}"] = float((logits.argmax(1) == labels).float().mean())
            found["loss"] = found.get("loss", 0.0) + float(F.cross_entropy(logits, labels)) / NUM_BINS
        return found

    def sample(self, path: Path) -> bool:
        return False

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        save_part(folder, "classifier", self.network, dtype=dtype)
        save_classes(folder, self.config.classes, self.config.autoencoder)

    def summary(self) -> str:
        return self.features.loader.summary()

    def close(self) -> None:
        self.features.close()


def _known(source: Source | None, classes: Sequence[str]) -> Source | None:
    if source is None:
        return None
    kept = [i for i in range(len(source)) if class_of(source.caption(i), classes) is not None]
    return Subset(source, kept) if kept else None
