"""`inkwash generate`: a sentence becomes picture files that say how they were made."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inkwash.cli.main import warn
from inkwash.cli.settings import Options, check_options, describe_model, first_request, load, produce, record, repeated, settings
from inkwash.io.png import Names, infotext, pixel_sha256, png_bytes
from inkwash.request import check_int

if TYPE_CHECKING:
    from pathlib import Path

    from inkwash.output import Image
    from inkwash.pipeline import Pipeline

MAX_IMAGES = 10_000


def generate(prompt: str, /, *, out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None, model: str = "mini",
             steps: str | None = None, sampler: str | None = None, spacing: str | None = None, guidance: str | None = None,
             negative: str | None = None, seed: str | None = None, num: Annotated[str, Parameter(name=["--num", "-n"])] = "1",
             size: str | None = None, device: str = "auto", weak: str | None = None, classifier: str | None = None,
             json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
             quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False) -> int:
    """Make pictures from a sentence.

    Prints the path of every picture. The same request gives the same bytes, however many pictures are made at once.

    Parameters
    ----------
    prompt
        What to draw, 1 to 4000 characters.
    out
        A .png file or a folder; default outputs/DATE/NUMBER-SEED.png. An existing file is never overwritten.
    model
        An embedded model or the folder of one.
    steps
        1..1000 steps of the sampler.
    sampler
        A name or a text such as DDIM(eta=0.5); see inkwash list samplers.
    spacing
        Which noise levels the steps visit; see inkwash list spacings.
    guidance
        How strongly the prompt is followed: 1 is no guidance; or a text such as CFG(scale=4.0).
    negative
        What to keep away from.
    seed
        0..2^63-1; picture i has seed + i. Random when not given.
    num
        How many pictures.
    size
        SIDE or WIDTHxHEIGHT in pixels.
    device
        cpu, cuda, cuda:1, mps or auto.
    weak
        A weaker model of the same parts, for --guidance AutoGuidance(scale=2).
    classifier
        The folder of a finished classifier run, for --guidance "ClassifierGuidance(scale=2, interval=Interval(0, 80))".
    json
        Print one JSON object per picture.
    quiet
        Print nothing but errors.
    """
    options = Options(steps, sampler, spacing, guidance, negative, seed, size)
    check_options(prompt, options)
    number = check_int(num, "-n", "bad_count", 1, MAX_IMAGES)
    folder, info = describe_model(model)
    requests = repeated(first_request(prompt, options, info), number)
    names = Names(out)
    names.prepare()
    pipeline = load(folder, device, weak, classifier)
    told: set[str] = set()
    for image in produce(pipeline, requests, quiet):
        path, pixel_hash = save(image, pipeline, names)
        if json:
            print(json_text.dumps(summary(image, pipeline, path, pixel_hash), ensure_ascii=False), flush=True)
        elif not quiet:
            for text in image.warnings:
                if text not in told:
                    warn(text)
            told.update(image.warnings)
            print(path, flush=True)
    return 0


def save(image: Image, pipeline: Pipeline, names: Names) -> tuple[Path, str]:
    """Writes one picture with its record; returns its path and the hash of its pixels."""
    from inkwash.output import to_pil

    assert image.pixels is not None
    picture = to_pil(image.pixels)
    pixel_hash = pixel_sha256(picture)
    text = infotext(image.request.prompt, image.request.negative, settings(image.request, pipeline))
    return names.save(png_bytes(picture, text, record(image, pipeline, pixel_hash)), image.request.seed), pixel_hash


def summary(image: Image, pipeline: Pipeline, path: Path, pixel_hash: str) -> dict[str, Any]:
    """One line of --json."""
    request = image.request
    return {"path": str(path), "prompt": request.prompt, "negative": request.negative, "seed": request.seed,
            "size": f"{request.width}x{request.height}", "sampler": request.sampler, "spacing": request.spacing, "guidance": request.guidance,
            "steps": request.steps, "nfe": image.nfe, "seconds": round(image.seconds, 3), "pixel_sha256": pixel_hash,
            "model": pipeline.info.name, "model_hash": pipeline.hash, "determinism": pipeline.determinism, "warnings": list(image.warnings)}
