"""Models beside the main one, for guidance that needs them: a weaker denoiser, a classifier of noisy samples.

Both must live in the same space: latents of one autoencoder, and for the weaker model the text vectors of one encoder. That is compared by
the hashes of their tensors when they are loaded, since a wrong companion would guide towards nonsense without an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.coordinate import Angle
from inkwash.core.level import Gauge, Level, rescale
from inkwash.errors import CheckpointError
from inkwash.guide import ClassifierShift
from inkwash.io.folder import load_part, part_folder, part_hash
from inkwash.io.tensors import add_text, read_text

CLASSES = "classes.json"


def class_of(caption: str, classes: Sequence[str]) -> int | None:
    """The number of the one class that the caption names as whole words; None when it names none or several."""
    found = [i for i, name in enumerate(classes) if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", caption, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class Classifier:
    """A trained classifier of noisy samples: `network(x in the VP gauge (B, ...), Angle (B,)) -> logits (B, classes)`, and the classes' names."""

    network: nn.Module
    classes: tuple[str, ...]

    def log_prob(self, x: Tensor, level: Level, cond: Cond) -> Tensor:
        """log p(label | x) (B,), the label's number in cond["label"] (B,)."""
        x, level = rescale(x, level, Gauge.VP)
        logits = self.network(x, Angle()(level).to(device=x.device, dtype=torch.float32).expand(len(x))).float()  # (B, classes)
        return -F.cross_entropy(logits, cond["label"], reduction="none")

    @property
    def shift(self) -> ClassifierShift:
        """The model that ClassifierGuidance adds."""
        return ClassifierShift(self.log_prob)


def save_classes(folder: Path, classes: Sequence[str], autoencoder: Path | None) -> None:
    """Writes beside a classifier in `folder` what `load_classifier` reads: its classes, and the hash of the autoencoder that made its latents."""
    space = "" if autoencoder is None else part_hash(part_folder(autoencoder, "vae"), "vae")
    add_text(folder, f"classifier/{CLASSES}", json.dumps({"classes": list(classes), "autoencoder": space}, ensure_ascii=False) + "\n")


def load_classifier(path: str | Path, model: Path) -> Classifier:
    """The classifier in a finished run's folder (or the model folder inside), for the model in the folder `model`.

    Raises CheckpointError: `no_part`, `model_damaged`, `ckpt_missing`, `ckpt_corrupt`, `wrong_companion` when it was trained on latents of
    another autoencoder.
    """
    folder = part_folder(path, "classifier")
    text = read_text(folder, f"classifier/{CLASSES}")
    try:
        about = json.loads(text)
        classes, autoencoder = tuple(str(name) for name in about["classes"]), about["autoencoder"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{folder / "classifier" / CLASSES}": {error}; export the classifier again') from None
    if autoencoder != part_hash(model, "vae"):
        raise CheckpointError("wrong_companion", f'the classifier in "{folder}" reads the latents of another autoencoder than "{model}" has; '
                                                 "train one with --set autoencoder naming this model")
    return Classifier(load_part(folder, "classifier").requires_grad_(False), classes)


def require_same_space(weak: Path, model: Path) -> None:
    """Raises CheckpointError `wrong_companion` unless two model folders share their autoencoder and their text encoder."""
    for part in ("vae", "text_encoder"):
        if part_hash(weak, part) != part_hash(model, part):
            raise CheckpointError("wrong_companion", f'"{weak}" has another {part} than "{model}", so it cannot guide it; '
                                                     "give an earlier or smaller denoiser that was trained with the same parts")
