"""`inkwash reproduce`: makes a picture again from what its file says, and compares the pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from inkwash.cli.generate import save, summary
from inkwash.cli.main import print_json
from inkwash.cli.settings import load, produce
from inkwash.errors import CheckpointError, DataError, InkwashError, UsageError, VerifyError
from inkwash.io.find import find_model
from inkwash.io.png import Names, pixel_sha256, read_png
from inkwash.picture import fit_pictures
from inkwash.request import Request


def reproduce(file: Path, /, *, out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None, model: str | None = None,
             image: str | None = None, mask: str | None = None, device: str = "auto", weak: str | None = None, classifier: str | None = None,
             json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
             quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False) -> int:
    """Make the picture of a PNG again and compare the pixels.

    Ends with 0 when they are the same, 8 when they differ, 4 when the model is another one or the file has no parameters, 2 or 3 when it was
    made from a picture and that is not given or is another one.

    Parameters
    ----------
    file
        A PNG that inkwash made.
    out
        Also save the new picture, to a .png file or a folder.
    model
        Where the model is, when it is not an embedded one.
    image
        The picture that it was made from, if it was.
    mask
        The mask that it was made with, if it was.
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
    request = read_request(file, stored, image, mask)
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
    [made] = produce(pipeline, [request], quiet)
    from inkwash.output import to_pil

    assert made.pixels is not None
    new, said, old = pixel_sha256(to_pil(made.pixels)), stored.get("pixel_sha256"), pixel_sha256(picture)
    path = save(made, pipeline, Names(out))[0] if out is not None else None
    same = new == said == old
    if json:
        line: dict[str, Any] = {**summary(made, pipeline, path or file, new), "same": same, "stored_sha256": said, "file_sha256": old}
        print_json(line)
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


def read_request(file: Path, stored: dict[str, Any], image: str | None = None, mask: str | None = None) -> Request:
    """The request in a record, with the pictures that it names by their hashes.

    Raises CheckpointError `bad_parameters`, UsageError `needs_image`, DataError `image_differs`, and what `fit_pictures` raises of the ones given.
    """
    raw = stored.get("request")
    if not isinstance(raw, dict):
        raise CheckpointError("no_parameters", f'"{file}" holds no single request, as a grid does not; give a picture of inkwash generate')
    names = {name: raw.get(name) for name in ("image", "mask")}
    for name, path in (("image", image), ("mask", mask)):
        if names[name] is not None and path is None:
            raise UsageError("needs_image", f'"{file}" was made with the {name} {_said(names[name])}; give that picture by --{name}')
        if names[name] is None and path is not None:
            raise UsageError("needs_image", f'"{file}" was made without {name}; leave out --{name}')
    with _usable(file):
        request = Request(**{key: value for key, value in raw.items() if key not in (*names, "strength")})
    source, paint, _ = fit_pictures(image, mask, request.width, request.height)
    for name, found in (("image", source), ("mask", paint)):
        said = names[name]
        if found is not None and not (isinstance(said, dict) and said.get("sha256") == found.sha256):
            raise DataError("image_differs", f'"{file}" was made with the {name} {_said(said)}, the one given has '
                                             f"{found.sha256[:16]} at {found.size}; give the right one by --{name}")
    with _usable(file):
        return dataclasses.replace(request, image=source, mask=paint, strength=raw.get("strength"))


@contextmanager
def _usable(file: Path) -> Iterator[None]:
    """What the record in a file is no good for is the file's fault."""
    try:
        yield
    except (TypeError, InkwashError) as error:
        raise CheckpointError("bad_parameters", f'"{file}": its parameters cannot be used: {error}; use the original file') from None


def _said(stored: Any) -> str:
    """How a message names a picture by its record."""
    known = stored if isinstance(stored, dict) else {}
    return f"of {str(known.get('size'))[:20]} with sha256 {str(known.get('sha256'))[:16]}"
