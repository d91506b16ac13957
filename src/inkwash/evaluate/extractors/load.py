"""Extractors by what a user calls them: the one inside this package, a CLIP, an Inception, or a finished run of one's own."""

from __future__ import annotations

from pathlib import Path

import torch

from inkwash.device import parse_device
from inkwash.errors import UsageError
from inkwash.evaluate.extractors import clip, inception, network
from inkwash.evaluate.extractors.features import Extractor
from inkwash.io.path import as_path


def load_extractor(text: str | Path, device: str | torch.device = "cpu") -> Extractor:
    """The extractor that `text` names.

    "ink": the one inside this package. "clip:FOLDER": image and text towers of a contrastive run of this package (its output folder; a
    text-to-image model carries only the text half and is refused), or a CLIP model as transformers stores it. A path: a finished run of
    the recipe `features`, an Inception v3 in a safetensors file (or in a folder with one such file), or a CLIP folder of transformers.

    Raises UsageError `unknown_extractor`, `missing_extra`, `bad_device`; CheckpointError `arch_mismatch` with the first differences,
    and those of `inkwash.io`.
    """
    where = parse_device(device)
    as_path(text, "an extractor")
    text = str(text)
    if text == "ink":
        return network.load_ink(network.embedded(), "ink", where)
    if text.startswith("clip:"):
        return clip.load_clip(Path(text.removeprefix("clip:")), where)
    path = Path(text)
    if not path.exists():
        raise UsageError("unknown_extractor", f"no extractor {text[:80]!r}; give ink, clip:FOLDER, or the path of a safetensors file or of a folder")
    for folder in (path, path / "model"):
        if (folder / network.PART / "config.json").is_file():
            return network.load_ink(folder, path.name, where)
    if clip.is_clip(path):
        return clip.load_clip(path, where)
    return inception.load_inception(path, where)
