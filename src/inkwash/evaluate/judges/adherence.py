"""Does a picture show what its caption asks for? The share of what is asked that is found in it, for captions that can be judged.

A caption of a photo may name one kind of garment and one colour. The kind is right when the classifier names it, the colour when the rule does
(`inkwash.evaluate.judges.garments`). The caption of a drawn scene asks for shapes, colours, their pairs, a number and a place, which exact rules find
(`inkwash.evaluate.judges.scenes`). A picture's score is the share of those that are right, of those that were asked. Other captions ask nothing
that can be judged here, and have no score. Real pictures get the same scores: the judges err, and they say how much can be reached.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.companion import class_of
from inkwash.evaluate.extractors.network import embedded
from inkwash.evaluate.judges.garments import COLOURS, garments, names_color, names_garment
from inkwash.evaluate.judges.scene_words import scene_of
from inkwash.evaluate.judges.scenes import bank, find
from inkwash.evaluate.judges.scenes import judge as judge_scene
from inkwash.io.folder import part_hash

PHOTO = re.compile(r"\bphoto of\b", re.IGNORECASE)
_COLOUR = re.compile(r"\b(" + "|".join(sorted(COLOURS, key=len, reverse=True)) + r")\b", re.IGNORECASE)  # "light blue" before "blue"
SILHOUETTES = 400                                                                        # that shapes of scenes are compared with
SCENE_RULES = 1                                                                          # counts changes that judge otherwise


class Asked(NamedTuple):
    """What a caption asks for, as far as it can be judged."""

    garment: str | None = None
    color: str | None = None
    scene: Mapping[str, Any] | None = None


def asked(caption: str) -> Asked:
    """The one kind of garment and the one colour that the caption of a photo names, or the scene that a caption describes."""
    if not PHOTO.search(caption):
        return Asked(scene=scene_of(caption))
    kind, colours = class_of(caption, garments()), {name.lower() for name in _COLOUR.findall(caption)}
    garment = garments()[kind] if kind is not None else None
    return Asked(garment, colours.pop() if garment is not None and len(colours) == 1 else None)


def adherence(images: Tensor, captions: Sequence[str]) -> Tensor:
    """uint8 (B, 3, H, W) with B captions -> (B,) float64: the share of what is asked that is there, NaN where nothing is asked."""
    wanted = [asked(caption) for caption in captions]
    photos = [i for i, wish in enumerate(wanted) if wish.garment is not None]
    scores = torch.full((len(images),), torch.nan, dtype=torch.float64)
    if photos:
        for i, kind, colour in zip(photos, names_garment(images[photos]), names_color(images[photos]), strict=True):
            hits = [kind == wanted[i].garment, *([colour == wanted[i].color] if wanted[i].color is not None else [])]
            scores[i] = sum(hits) / len(hits)
    for i, wish in enumerate(wanted):
        if wish.scene is not None and images.shape[2] == images.shape[3]:                # silhouettes are drawn square
            scores[i] = _scene(images[i], wish.scene)
    return scores


def _scene(image: Tensor, scene: Mapping[str, Any]) -> float:
    """The share of shapes, colours, count, pairs of both, and place that hold; captions often leave the size open."""
    verdict = judge_scene(find(image.permute(1, 2, 0).contiguous().numpy(), bank(image.shape[1], count=SILHOUETTES)), scene)
    told = [verdict.object, verdict.color, verdict.count, verdict.binding, *([verdict.position] if verdict.position is not None else [])]
    return sum(told) / len(told)


def judge_name() -> str:
    """What the judges are, with a hash of the weights, points and rules that decide."""
    decides = [part_hash(embedded(), "extractor"), part_hash(embedded(), "garment"), repr(COLOURS), repr(SCENE_RULES)]
    return f"garments, colours and scenes {hashlib.sha256(' '.join(decides).encode()).hexdigest()}"
