"""What a pipeline returns: images, what they cost, and what of their requests had no effect or was not certain to work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from torch import Tensor

from inkwash.errors import UsageError
from inkwash.io.find import known_models
from inkwash.io.info import ModelInfo, unknown_words
from inkwash.request import MAX_SEED, Request, check_int, random_seed

if TYPE_CHECKING:
    from inkwash.condition import Conditioner


@dataclass(frozen=True)
class Image:
    """One image and how it came about.

    `pixels` (3, H, W) uint8, None when only the latent was asked for; `rows` of its table that ran; `nfe` network evaluations (guidance
    counts each branch, filling up does not count); `seconds` this image's share of the time of its batch.
    """

    request: Request
    pixels: Tensor | None
    latent: Tensor
    rows: int
    nfe: int
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """`images` in the format asked for; one entry per image in the others. `seconds` is each image's share of the time of its batch."""

    images: Any
    nfe: list[int]
    seeds: list[int]
    seconds: list[float]
    warnings: list[tuple[str, ...]]


def notes(request: Request, info: ModelInfo, conditioner: Conditioner, finite: bool, inert: Sequence[str] = ()) -> tuple[str, ...]:
    """What of a request has no effect or is not certain to work, one sentence each.

    `finite` says whether all numbers of the image were; `inert` is what guidance makes no use of.
    """
    found = [*inert, *conditioner.report(request.prompt)]
    if request.mask is not None and not any(request.mask.data):
        found.append("the mask is black everywhere, so the picture comes back as it was; make white what shall be painted")
    if request.negative:
        found += [f"negative prompt: {text}" for text in conditioner.report(request.negative)]
    if new := unknown_words(request.prompt, info.vocabulary):
        listed = ", ".join(new[:8]) + (f" and {len(new) - 8} more" if len(new) > 8 else "")
        place = info.name if info.name in known_models() else "FOLDER"                   # a path would stand in the picture's file
        found.append(f"the model never saw {'this word' if len(new) == 1 else 'these words'} in training: {listed}; "
                     f"inkwash inspect {place} shows what it knows")
    if (request.width, request.height) != info.sizes.default:
        trained = "{}x{}".format(*info.sizes.default)
        found.append(f"size {request.width}x{request.height} differs from the size of training, {trained}; expect cut or repeated objects")
    if not finite:
        found.append("the picture has numbers that are not finite, shown as grey; use lower guidance, more steps or another sampler")
    return tuple(found)


def to_pil(pixels: Tensor) -> PIL.Image.Image:
    """A picture from (3, H, W) uint8."""
    return PIL.Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")


def deliver(images: Sequence[Image], kind: str) -> Output:
    """The images as "pil" list, "pt" (N, 3, H, W) or "np" (N, H, W, 3) in 0..1, or "latent" (N, C, h, w)."""
    found: Any
    if kind == "latent":
        found = torch.stack([image.latent for image in images])
    else:
        pixels = [image.pixels for image in images if image.pixels is not None]
        if kind == "pil":
            found = [to_pil(picture) for picture in pixels]
        else:
            found = torch.stack(pixels).float() / 255
            found = found.permute(0, 2, 3, 1).numpy() if kind == "np" else found
    return Output(found, [image.nfe for image in images], [image.request.seed for image in images], [image.seconds for image in images],
                  [image.warnings for image in images])


def seeds_for(count: int, seed: int | None, generator: torch.Generator | Sequence[torch.Generator] | None) -> list[int]:
    """The seeds of `count` images: seed + i, with the first one given, drawn from `generator`, or random; a list of generators draws one each.

    Raises UsageError `bad_seed`.
    """
    if seed is not None and generator is not None:
        raise UsageError("bad_seed", "give either seed or generator, not both")
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise UsageError("bad_seed", f"got {len(generator)} generators for {count} images; give one per image, or a single one")
        return [_draw(item) for item in generator]
    first = _draw(generator) if generator is not None else random_seed() if seed is None else seed
    first = check_int(first, "seed", "bad_seed", 0, MAX_SEED)
    check_int(first + count - 1, "seed + number of images - 1", "bad_seed", 0, MAX_SEED)
    return [first + i for i in range(count)]


def _draw(generator: torch.Generator) -> int:
    if not isinstance(generator, torch.Generator):
        raise UsageError("bad_seed", f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}; a number is a seed=")
    return int(torch.randint(0, 2**32, (1,), generator=generator, device=generator.device))
