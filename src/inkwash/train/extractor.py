"""Training a feature extractor for comparing sets of images, on captioned pictures.

Two losses share one network. Instance discrimination: of two views of each picture, each must be the other's nearest among all views of the
batch (NT-Xent, Chen et al. 2020, arXiv 2002.05709, equation 1); pictures with one caption are not each other's negatives. Words:
which frequent words the caption has, as independent yes-or-no questions on the same features, so that things and colours are in them. Both
see the features through a layer norm; what is exported is the network below, its features centred and scaled over training pictures.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.companion import class_of
from inkwash.data.heldout import Subset, bound
from inkwash.data.item import Source
from inkwash.data.loader import Batch
from inkwash.data.source import distinct
from inkwash.errors import DataError, UsageError
from inkwash.io.folder import save_part
from inkwash.io.tensors import add_text
from inkwash.nn.features import FeatureNet, LinearHead, LinearHeadConfig
from inkwash.train.augment import shared, view
from inkwash.train.config import FeaturesRun
from inkwash.train.contrastive import everyone
from inkwash.train.setting import Setting
from inkwash.train.task import Draw, Loss

ROLE, PART, HEAD, ABOUT = "features", "extractor", "garment", "features.json"
CALIBRATION = 2048


def words_of(caption: str) -> frozenset[str]:
    """The different words of a caption, in lower case; t-shirt is one."""
    return frozenset(re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", caption.lower()))


def frequent_words(captions: Iterable[str], least: int) -> list[str]:
    """Words that at least `least` captions have but not all, in alphabetical order. Raises DataError `no_words` when there are none."""
    counts, total = Counter[str](), 0
    for caption in captions:
        counts.update(words_of(caption))
        total += 1
    found = sorted(word for word, count in counts.items() if least <= count < total)
    if not found:
        raise DataError("no_words", f"no word stands in {least} captions, so there is nothing to learn from them; lower min_count or add captions")
    return found


def nt_xent(mine: Tensor, everyones: Tensor, names: Tensor, all_names: Tensor, first: int, temperature: float) -> tuple[Tensor, Tensor]:
    """-log softmax of the other view's cosine / temperature, and the share of views found, both means of a picture's two views.

    (2, B, D) among (2, G, D) -> (B,), (B,). Unit vectors; `names` (B,) and `all_names` (G,) are equal for pictures with one caption. The rows
    stand at `first` .. of the whole batch.
    """
    count, total = mine.shape[1], everyones.shape[1]
    own = first + torch.arange(count, device=mine.device)                               # (B,)
    same = (names[:, None] == all_names[None]).repeat(1, 2)                             # (B, 2G), itself and its other view too
    value, found = mine.new_zeros(count), mine.new_zeros(count)
    for side in range(2):
        truth = own + (1 - side) * total
        hidden = same.clone()
        hidden[torch.arange(count, device=mine.device), truth] = False
        logits = (mine[side] @ everyones.flatten(0, 1).T / temperature).masked_fill(hidden, -torch.inf)     # (B, 2G)
        value = value + F.cross_entropy(logits, truth, reduction="none") / 2
        found = found + (logits.argmax(1) == truth).float() / 2
    return value, found


class Student(nn.Module):
    """The network with the two heads that training needs."""

    def __init__(self, network: FeatureNet, words: int, projection: int) -> None:
        super().__init__()
        dim = network.config.dim
        self.network = network
        self.words = nn.Linear(dim, words)
        nn.init.constant_(self.words.bias, -4.0)                                        # most words are in few captions
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, projection))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, projection) and logits of words (B, words)."""
        features = F.layer_norm(self.network.raw(image).float(), (self.network.config.dim,))
        return F.normalize(self.project(features).float(), dim=1), self.words(features).float()


class FeaturesTask:
    """Trains `config.network`, a FeatureNetConfig."""

    def __init__(self, config: FeaturesRun, setting: Setting) -> None:
        if config.accumulate != 1:
            raise UsageError("bad_batch", "accumulate: a features run compares the samples of one batch with each other, so accumulate must be 1")
        if config.network.size != config.data.size:
            raise UsageError("bad_recipe", f"data.size {config.data.size} must be the network's size {config.network.size}")
        self.config, self.setting = config, setting
        base = distinct(setting.train)
        self.words = frequent_words((base.caption(i) for i in range(len(base))), config.min_count)
        self.column = {word: i for i, word in enumerate(self.words)}
        self.network: FeatureNet = config.network.build()
        self.student = Student(self.network, len(self.words), config.projection)
        self.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.roles = {ROLE: self.student}
        self.loader = setting.loader(config, setting.train, "train", flip=False)
        self.fingerprint = self.loader.fingerprint
        self.held_out = setting.held_out(config)

    def batch(self, micro_step: int) -> Batch:
        return self.loader.batch(micro_step)

    def keys(self, batch: Batch) -> list[str]:
        return batch.keys

    def losses(self, batch: Batch, draw: Draw) -> Iterator[Loss]:
        contrast, found, words = self._terms(batch, draw)
        yield Loss(ROLE, contrast + self.config.words * words, {"contrast": contrast, "words": words, "found": found})

    def _terms(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        """Per picture (B,): the contrastive loss, the share of its views found, the word loss in nats."""
        plain = shared(batch.images.to(self.setting.device), draw)
        pair = torch.cat([view(plain, draw, name) for name in ("one", "two")])
        vectors, logits = self.student((2 * pair - 1).to(memory_format=torch.channels_last))
        mine = vectors.unflatten(0, (2, len(batch.captions)))                           # (2, B, D)
        names = torch.tensor([_number(caption) for caption in batch.captions], device=mine.device)
        contrast, found = nt_xent(mine, torch.stack([everyone(part) for part in mine]), names, everyone(names), draw.rows.start,
                                  self.config.temperature)
        targets = self.targets(batch.captions).repeat(2, 1)
        words = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).unflatten(0, (2, -1)).mean(0)
        return contrast, found, words

    def targets(self, captions: Iterable[str]) -> Tensor:
        """Which of the frequent words each caption has: (B, words), 0 or 1."""
        rows = [[word in said for word in self.words] for said in map(words_of, captions)]
        return torch.tensor(rows, dtype=torch.float32, device=self.setting.device)

    def compile(self) -> None:
        self.student.compile()

    def validate(self) -> dict[str, float]:
        """Losses of held-out pictures among each other, and how often a view finds its other view; the same views every time."""
        if self.held_out is None:
            return {}
        every = max(1, len(self.held_out.captions) // 192)
        rows = range(0, len(self.held_out.captions), every)
        part = Batch(self.held_out.images[::every], [self.held_out.captions[i] for i in rows], [self.held_out.keys[i] for i in rows],
                     self.held_out.index[::every], self.held_out.flipped[::every])
        contrast, found, words = self._terms(part, Draw(0, 0, len(rows)))
        return {"loss": float((contrast + self.config.words * words).mean()), "contrast": float(contrast.mean()), "found": float(found.mean()),
                "words": float(words.mean())}

    def sample(self, path: Path) -> bool:
        return False

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """`extractor`, `garment` when the recipe names classes, and `features.json`: the card, the words, the classes."""
        base = self.loader.base
        every = max(1, len(base) // CALIBRATION)
        self.network.calibrate(torch.cat(list(self._raw(range(0, len(base), every)))))
        save_part(folder, PART, self.network, dtype=dtype)
        if self.config.classes:
            save_part(folder, HEAD, self._head(base), dtype=dtype)
        validation = self.setting.validation
        about = {"name": self.config.name, "classes": list(self.config.classes), "words": self.words,
                 "card": {**self.config.card, "data": list(self.setting.names), "images": len(base), "steps": self.config.steps,
                          "batch": self.config.batch, **({"held_out": bound(validation)} if validation is not None else {})}}
        add_text(folder, ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def _raw(self, rows: Iterable[int], mirror: bool = False) -> Iterator[Tensor]:
        chosen = list(rows)
        for start in range(0, len(chosen), 32):
            images = torch.stack([self.loader.image(i) for i in chosen[start : start + 32]])
            yield self.network.raw(self.setting.signed(images.flip(-1) if mirror else images)).float()

    def _head(self, base: Source) -> LinearHead:
        """A linear classifier of photos on the finished features: multinomial logistic regression, photos and their mirror images."""
        labels = {i: class_of(base.caption(i), self.config.classes) for i in range(len(base)) if "photo" in words_of(base.caption(i))}
        photos = Subset(base, [i for i, label in labels.items() if label is not None])
        if len({label for label in labels.values() if label is not None}) < len(self.config.classes):
            raise DataError("no_classes", "classes: some are named by no photo's caption; correct `classes` or name other data")
        raw = torch.cat([part for mirror in (False, True) for part in self._raw(photos.index, mirror)])
        features = (raw - self.network.center) / self.network.scale
        truth = torch.tensor([labels[i] for i in photos.index] * 2, device=features.device)
        return fit_head(features, truth, len(self.config.classes))

    def summary(self) -> str:
        return self.loader.summary()

    def close(self) -> None:
        self.loader.close()


@torch.enable_grad()
def fit_head(features: Tensor, truth: Tensor, classes: int, decay: float = 1e-3) -> LinearHead:
    """argmin over W, b of mean cross-entropy + decay |W|^2 / 2 by L-BFGS from zero; features (N, D), truth (N,)."""
    head = LinearHeadConfig(features.shape[1], classes).build().to(features.device)
    features = features.detach().clone()
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features), truth) + decay / 2 * head.linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return head.requires_grad_(False)


def _number(caption: str) -> int:
    """A 63-bit number for a caption, the same in every process."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "big") >> 1
