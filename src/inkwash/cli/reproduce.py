"""`inkwash reproduce`: makes a picture again from what its file says, and compares the pixels."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from inkwash.cli.generate import save, summary
from inkwash.cli.settings import load, produce
from inkwash.errors import CheckpointError, InkwashError, VerifyError
from inkwash.io.info import find_model
from inkwash.io.png import Names, pixel_sha256, read_png
from inkwash.request import Request


def reproduce(file: Path, /, *, out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None, model: str | None = None,

             device: str = "auto", weak: str | None = None, classifier: str | None = None,
             json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
              quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False) -> int:
    """Make the picture of a PNG again and compare the pixels.

    Ends with 0 when they are the same, 8 when they differ, 4 when the model is another one or the file has no parameters.

    Parameters
    ----------
    file
        A PNG that inkwash made.
    out
        Also save the new picture, to a .png file or a folder.
    model
        Where the model is, when it is not an embedded one.
    device
        cpu, cuda, cuda:1, mps or auto.
    weak
        A weaker model of the same parts, for --guidance AutoGuidance(scale=2).
    classifier
        The folder of a finished classifier run, for --guidance "ClassifierGuidance(scale=2, interval=Interval(0, 80))".
    json
        Print one JSON object.
    quiet
        Print nothing but errors.
    """
    picture, stored = read_png(file)
    request = read_request(file, stored)
    folder = find_model(model or str(stored.get("model")))
    from inkwash.io.folder import model_hash

    if (found := model_hash(folder)) != stored.get("model_hash"):
        raise CheckpointError("model_differs", f'"{file}" was made by model {stored.get("model")} {str(stored.get("model_hash"))[:10]}, '
                                               f'but "{folder.name}" here is {found[:10]}; give the right one by --model')
    if out is not None:
        Names(out).prepare()
    pipeline = load(folder, device, weak, classifier)
    if pipeline.companions != stored.get("companions", {}):
        raise CheckpointError("model_differs", f'"{file}" was guided by other companions: {stored.get("companions") or "none"}; name the same ones '
                                               "by --weak and --classifier")
    [image] = produce(pipeline, [request], quiet)
    from inkwash.output import to_pil

    assert image.pixels is not None
    new, said, old = pixel_sha256(to_pil(image.pixels)), stored.get("pixel_sha256"), pixel_sha256(picture)
    path = save(image, pipeline, Names(out))[0] if out is not None else None
    same = new == said == old
    if json:
        line: dict[str, Any] = {**summary(image, pipeline, path or file, new), "same": same, "stored_sha256": said, "file_sha256": old}
        print(json_text.dumps(line, ensure_ascii=False), flush=True)
    if old != said:
        raise VerifyError("pixels_changed", f'"{file}" was changed after it was made: its pixels have sha256 {old[:16]}, its parameters say '
                                            f"{str(said)[:16]}; use the original file")
    if not same:
        raise VerifyError("pixels_differ", f'"{file}" came out different: stored {str(said)[:16]}, made now {new[:16]} '
                                           f"({stored.get('device')} {stored.get('dtype')} torch {stored.get('torch')} then, {pipeline.device.type} "
                                           f"{str(pipeline.dtype).removeprefix('torch.')} now); try the same device and version")
    if not json and not quiet:
        print(f"same pixels: sha256 {new}" + (f" saved as {path}" if path else ""), flush=True)
    return 0


def read_request(file: Path, stored: dict[str, Any]) -> Request:
    """The request in a record. Raises CheckpointError `bad_parameters`."""
    raw = stored.get("request")
    if not isinstance(raw, dict):
        raise CheckpointError("no_parameters", f'"{file}" holds no single request, as a grid does not; give a picture of inkwash generate')
    try:
        return Request(**raw)
    except (TypeError, InkwashError) as error:
        raise CheckpointError("bad_parameters", f'"{file}": its parameters cannot be used: {error}; use the original file') from None
