"""`inkwash generate`: a sentence becomes picture files that say how they were made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inkwash.cli.main import print_json, warn
from inkwash.cli.settings import Options, check_options, describe_model, first_request, load, produce, repeated
from inkwash.io.png import Names, pixel_sha256, png_bytes
from inkwash.picture import fit_pictures
from inkwash.record import parameters, record
from inkwash.request import Request, as_dict, check_int, check_strength

if TYPE_CHECKING:
    from pathlib import Path

    from inkwash.output import Image
    from inkwash.pipeline import Pipeline

MAX_IMAGES = 10_000


def generate(prompt: str, /, *, out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None, model: str = "mini",
             steps: str | None = None, sampler: str | None = None, spacing: str | None = None, guidance: str | None = None,
             negative: str | None = None, seed: str | None = None, num: Annotated[str, Parameter(name=["--num", "-n"])] = "1",
             size: str | None = None, image: str | None = None, mask: str | None = None, strength: str | None = None,
             device: str = "auto", weak: str | None = None, classifier: str | None = None,
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
    image
        A PNG, JPEG or WebP picture to start from; another size is cut to its middle and resized.
    mask
        A picture of the same size as the image: white is painted anew, black is kept as it is.
    strength
        Above 0 (nothing changes) to 1 (nothing is kept): the share of the steps that run on the image; usual 0.75.
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
    request, note = with_pictures(first_request(prompt, options, info), image, mask, strength)
    requests = repeated(request, number)
    if note and not quiet:
        warn(note)
    names = Names(out)
    names.prepare()
    pipeline = load(folder, device, weak, classifier)
    told: set[str] = set()
    done = 0
    try:
        for made in produce(pipeline, requests, quiet):
            path, pixel_hash = save(made, pipeline, names)
            done += 1
            if json:
                print_json(summary(made, pipeline, path, pixel_hash))
            elif not quiet:
                for text in made.warnings:
                    if text not in told:
                        warn(text)
                told.update(made.warnings)
                print(path, flush=True)
    except KeyboardInterrupt:
        if 0 < done < number and not quiet:
            warn(f"stopped after {done} of {number} pictures; --seed {request.seed + done} -n {number - done} makes the others")
        raise
    return 0


def with_pictures(request: Request, image: str | None, mask: str | None, strength: str | None) -> tuple[Request, str]:
    """The request with what it starts from, at its size, and a sentence where a picture had to be cut or resized."""
    source, paint, note = fit_pictures(image, mask, request.width, request.height)
    share = None if strength is None else check_strength(strength, "--strength")
    return dataclasses.replace(request, image=source, mask=paint, strength=share), note


def save(image: Image, pipeline: Pipeline, names: Names) -> tuple[Path, str]:
    """Writes one picture with its record; returns its path and the hash of its pixels."""
    from inkwash.output import to_pil

    assert image.pixels is not None
    picture = to_pil(image.pixels)
    pixel_hash = pixel_sha256(picture)
    text = parameters(image.request, pipeline)
    return names.save(png_bytes(picture, text, record(image, pipeline, pixel_hash)), image.request.seed), pixel_hash


def summary(image: Image, pipeline: Pipeline, path: Path, pixel_hash: str) -> dict[str, Any]:
    """One line of --json."""
    request = image.request
    edit = {name: value for name, value in as_dict(request).items() if name in ("image", "mask", "strength")}
    return {"path": str(path), "prompt": request.prompt, "negative": request.negative, "seed": request.seed,
            "size": f"{request.width}x{request.height}", "sampler": request.sampler, "spacing": request.spacing, "guidance": request.guidance,
            "steps": request.steps, **edit, "rows": image.rows, "nfe": image.nfe, "seconds": round(image.seconds, 3), "pixel_sha256": pixel_hash,
            "model": pipeline.info.name, "model_hash": pipeline.hash, "determinism": pipeline.determinism, "warnings": list(image.warnings)}
