"""Adherence, diversity and saturation of a text-to-image model against the guidance scale; part of `curves.py`.

Prompts name one object and its colour on a background of known colour. What differs from the border's colour is the object, and the colour of
the vocabulary nearest to its mean is the colour that is recognised: no judge but the colour code itself.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

from inkwash.errors import CheckpointError
from inkwash.io.find import find_model
from inkwash.pipeline import Pipeline
from inkwash.request import Request

CODES = {"red": "e02a26", "yellow": "fbd72b", "green": "38a845", "blue": "2860e0", "purple": "8a3cc2", "orange": "f58a1f"}
PROMPTS = {f"a large {colour} {shape}": colour for shape in ("sphere", "cube") for colour in CODES}
SCALES, SEEDS, STEPS = (1.0, 2.0, 4.0, 7.5, 15.0), (0, 1), 12


def chroma(rgb: Tensor) -> Tensor:
    """Direction of a colour (..., 3) away from grey, unit length: light and shade change it little."""
    away = rgb - rgb.mean(-1, keepdim=True)
    return away / away.norm(dim=-1, keepdim=True).clamp(min=1e-6)


def recognised(pixels: Tensor) -> str:
    """The colour of CODES nearest to that of the object in (3, H, W) uint8; "" where nothing differs from the border."""
    image = pixels.float().permute(1, 2, 0) / 255
    border = torch.cat([image[0], image[-1], image[:, 0], image[:, -1]]).median(0).values
    away = (image - border).norm(dim=-1)
    chosen = image[away > 0.25]
    if len(chosen) < 0.01 * away.numel():
        return ""
    codes = torch.tensor([[int(code[i:i + 2], 16) / 255 for i in (0, 2, 4)] for code in CODES.values()])
    return list(CODES)[int((chroma(codes) @ chroma(chosen.mean(0))).argmax())]


def saturation(pixels: Tensor) -> float:
    """Mean of (max - min) / max over the pixels of (3, H, W) uint8."""
    rgb = pixels.float()
    high, low = rgb.max(0).values, rgb.min(0).values
    return float(((high - low) / high.clamp(min=1)).mean())


def mini_guidance(model: str) -> dict[str, Any] | str:
    """The curve, or a sentence when there is no such model."""
    try:
        find_model(model)
    except CheckpointError as error:
        return f"not measured: {error}"
    pipe = Pipeline.from_pretrained(model)
    default, (wide, high) = pipe.info.defaults, pipe.info.sizes.default
    rows = []
    for w in SCALES:
        images = [image.pixels for image in pipe.generate([Request(prompt, "", seed, STEPS, default.sampler, default.spacing, w, wide, high)
                                                           for prompt in PROMPTS for seed in SEEDS])]
        pixels = [image for image in images if image is not None]
        pairs = [((a.float() - b.float()) / 255).square().mean().sqrt() for a, b in zip(pixels[::2], pixels[1::2])]
        right = [recognised(image) == colour for image, colour in zip(pixels, [colour for colour in PROMPTS.values() for _ in SEEDS])]
        rows.append({"w": w, "w_extra": w - 1, "colour_right": round(statistics.mean(right), 3),
                     "distance_between_seeds": round(float(torch.stack(pairs).mean()), 4),
                     "saturation": round(statistics.mean(map(saturation, pixels)), 4),
                     "clipped": round(float(torch.stack([((image == 0) | (image == 255)).float().mean() for image in pixels]).mean()), 4)})
    return {"model": pipe.info.name, "hash": pipe.hash, "sampler": default.sampler, "steps": STEPS, "prompts": list(PROMPTS), "seeds": len(SEEDS),
            "rows": rows}
